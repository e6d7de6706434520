"""Derivatives in the factors of X = QKᵀ, by the chain rule written out with explicit Jacobians."""

import numpy as np

from tests.oracles import lifted, scale


def jacobian(Q, K):
    """`∂ vec(QKᵀ) / ∂ (vec Q, vec K)`, (d1·d2, (d1 + d2)·r)."""
    d1, d2 = len(Q), len(K)
    # x_ab = Σ_r Q_ar K_br.
    by_Q = np.einsum("ac,br->abcr", np.eye(d1), K).reshape(d1 * d2, -1)
    by_K = np.einsum("bc,ar->abcr", np.eye(d2), Q).reshape(d1 * d2, -1)
    return np.concatenate([by_Q, by_K], axis=1)


def mixed(g, d1, d2, r):
    """`Σ_ab g_ab ∇²x_ab`: the only nonzero second derivatives are ∂²x_ab/∂Q_ar∂K_br = 1."""
    cross = np.einsum("ab,rs->arbs", g.reshape(d1, d2), np.eye(r)).reshape(d1 * r, d2 * r)
    zero1, zero2 = np.zeros((d1 * r, d1 * r)), np.zeros((d2 * r, d2 * r))
    return np.block([[zero1, cross], [cross.T, zero2]])


def chain(full: lifted.Quantities, Q, K) -> lifted.Quantities:
    """Quantities in the factors from those in X."""
    J = jacobian(Q, K)
    gauss_newton = J.T @ full.gauss_newton @ J
    hessian = J.T @ full.hessian @ J + mixed(full.gradient, len(Q), len(K), Q.shape[1])
    return lifted.Quantities(full.value, J.T @ full.gradient, hessian, gauss_newton)


def evaluate(data: lifted.Data, Q, K, eps) -> tuple[lifted.Quantities, lifted.Quantities]:
    """The exact quantities and their natural scales, over (vec Q, vec K)."""
    Q, K = lifted.extended(Q), lifted.extended(K)
    sizes = np.abs(Q) @ np.abs(K).T
    exact = lifted.evaluate(data, Q @ K.T)
    return chain(exact, Q, K), chain(scale.natural(data, Q @ K.T, eps, size=sizes), np.abs(Q), np.abs(K))
