"""A whole attention-regression problem the naive way: loop over rows, form every `A_[j] = a_j ⊗ A2` explicitly.

In extended precision (80-bit where the machine has it), so the result is exact to float64 rounding.
"""

from typing import NamedTuple

import numpy as np

from tests.oracles import rows


class Data(NamedTuple):
    """The arrays of a problem with documents first; `mask` (k, n, m) boolean or None, `weight` (k, n, m) or None."""

    A1: np.ndarray
    A2: np.ndarray
    B: np.ndarray
    loss: str
    mask: np.ndarray | None = None
    weight: np.ndarray | None = None
    ridge: float = 0.0


class Quantities(NamedTuple):
    """Value (), gradient (p,), Hessian (p, p), Gauss–Newton matrix (p, p), p = d1·d2 in row-major order."""

    value: np.floating
    gradient: np.ndarray
    hessian: np.ndarray
    gauss_newton: np.ndarray


def extended(x):
    """`x` in the widest float."""
    return np.asarray(x).astype(np.longdouble)


def each_row(data: Data):
    """(document, j, allowed keys) of every row."""
    k, n, m = data.B.shape
    for document in range(k):
        for j in range(n):
            allowed = np.ones(m, bool) if data.mask is None else data.mask[document, j]
            yield document, j, allowed


def lift(terms, ridge, x) -> Quantities:
    """`Σ (value, A_[j]ᵀγ, A_[j]ᵀ H A_[j])` over (A_[j], row) pairs, plus the ridge's ½ ridge ‖x‖²."""
    p = x.size
    value, gradient = x.dtype.type(0), np.zeros(p, x.dtype)
    hessian, gauss_newton = np.zeros((p, p), x.dtype), np.zeros((p, p), x.dtype)
    for A, row in terms:
        value += row.value
        gradient += A.T @ row.gradient
        hessian += A.T @ row.hessian @ A
        gauss_newton += A.T @ row.gauss_newton @ A
    shift = ridge * np.eye(p, dtype=x.dtype)
    return Quantities(value + ridge * (x @ x) / 2, gradient + ridge * x, hessian + shift, gauss_newton + shift)


def regularized(row: rows.Row, s, weight, allowed) -> rows.Row:
    """The row plus `½‖w∘s‖²` over the allowed keys."""
    w2 = np.where(allowed, weight * weight, 0).astype(s.dtype)
    extra = np.diag(w2)
    return rows.Row(
        row.value + np.sum(w2 * s * s) / 2, row.gradient + w2 * s, row.hessian + extra, row.gauss_newton + extra
    )


def evaluate(data: Data, X) -> Quantities:
    """Value, gradient, Hessian and Gauss–Newton matrix at X (d1, d2)."""
    A1, A2, B, x = extended(data.A1), extended(data.A2), extended(data.B), extended(X).ravel()

    def terms():
        for document, j, allowed in each_row(data):
            A = np.kron(A1[document, j][None, :], A2[document])
            s = A @ x
            row = rows.row(data.loss, s, B[document, j], allowed)
            if data.weight is not None:
                row = regularized(row, s, extended(data.weight)[document, j], allowed)
            yield A, row

    return lift(terms(), extended(data.ridge), x)
