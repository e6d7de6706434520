"""The closed forms of arXiv 2309.07418 and its base papers as printed, and the true ones where the print is wrong.

One entry (j, i) of the one-layer loss, in the papers' letters and with their factor: `½ c²`, `c = ⟨f, v⟩ − b`,
`f = softmax(A x)`, `v = A3 y`, with `A = A_[j]` (n, p), `A3` (n, d). The single regressions are `½‖c‖²` with
`c = f − b` or `c = u − αb`. NumPy, straight from the formulas; docs/theory/errata.md has the derivations.
"""

from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """Everything the papers name at one (j, i): A (n, p), A3 (n, d), u, f, v, w (n,), and alpha, gamma, c scalars."""

    A: np.ndarray
    A3: np.ndarray
    u: np.ndarray
    alpha: float
    f: np.ndarray
    v: np.ndarray
    gamma: float
    c: float
    w: np.ndarray


def entry(A, A3, x, y, b) -> Entry:
    """The quantities of one (j, i) at x (p,), y (d,) and the target b."""
    u = np.exp(A @ x)
    f, v = u / u.sum(), A3 @ y
    gamma = float(f @ v)
    return Entry(A, A3, u, float(u.sum()), f, v, gamma, gamma - b, f * v)


# --- the blocks and their derivatives: (A_[j] x is the only place where x enters) ------------------------------------


def du(e: Entry):
    """`∂u/∂x = diag(u) A`."""
    return e.u[:, None] * e.A


def dalpha(e: Entry):
    """`∂α/∂x = Aᵀ u`."""
    return e.A.T @ e.u


def dalpha_inverse(e: Entry):
    """`∂α⁻¹/∂x = −α⁻¹ Aᵀ f`."""
    return -(e.A.T @ e.f) / e.alpha


def df(e: Entry):
    """`∂f/∂x = (diag f − f fᵀ) A`."""
    return (np.diag(e.f) - np.outer(e.f, e.f)) @ e.A


def dc(e: Entry):
    """`∂c/∂x = Aᵀ (w − γ f)`, which is also `∂γ/∂x`."""
    return e.A.T @ (e.w - e.gamma * e.f)


def dloss_x(e: Entry):
    """`∂(½c²)/∂x = c Aᵀ (w − γ f)`."""
    return e.c * dc(e)


def dc_y(e: Entry):
    """`∂c/∂y = A3ᵀ f`."""
    return e.A3.T @ e.f


def dloss_y(e: Entry):
    """`∂(½c²)/∂y = c A3ᵀ f`."""
    return e.c * dc_y(e)


# --- Hessian kernels: A_[j]ᵀ K A_[j], A_[j]ᵀ K A3, A3ᵀ K A3 ----------------------------------------------------------


def _both(x, y):
    return np.outer(x, y) + np.outer(y, x)


def kernel_xx_printed(e: Entry):
    """Definition D.3 as printed: wrong in the diagonal and in the cross term."""
    ff, square = np.outer(e.f, e.f), 2 * e.gamma * e.c + e.gamma**2
    diagonal = (1 - e.gamma) * e.c * np.diag(e.w)
    return diagonal - (2 * e.gamma + e.c) * _both(e.w, e.f) + square * ff + np.outer(e.w, e.w)


def kernel_xx(e: Entry):
    """`c (diag w − γ diag f) − (γ + c)(w fᵀ + f wᵀ) + (2γc + γ²) f fᵀ + w wᵀ`."""
    ff, square = np.outer(e.f, e.f), 2 * e.gamma * e.c + e.gamma**2
    diagonal = e.c * (np.diag(e.w) - e.gamma * np.diag(e.f))
    return diagonal - (e.gamma + e.c) * _both(e.w, e.f) + square * ff + np.outer(e.w, e.w)


def kernel_xy_printed(e: Entry):
    """Definition H.3 as printed: the sign of c is wrong."""
    return np.outer(e.w - e.gamma * e.f, e.f) - e.c * (np.diag(e.f) - np.outer(e.f, e.f))


def kernel_xy(e: Entry):
    """`w fᵀ − γ f fᵀ + c diag f − c f fᵀ` (Lemma H.1)."""
    return np.outer(e.w - e.gamma * e.f, e.f) + e.c * (np.diag(e.f) - np.outer(e.f, e.f))


def kernel_yy(e: Entry):
    """`f fᵀ` (Lemma G.2)."""
    return np.outer(e.f, e.f)


def hessian_c(e: Entry):
    """`∂²c/∂x²`: `Aᵀ (diag w − γ diag f − w fᵀ − f wᵀ + 2γ f fᵀ) A`, what D.1 combines with `∂c ∂cᵀ`."""
    kernel = np.diag(e.w) - e.gamma * np.diag(e.f) - _both(e.w, e.f) + 2 * e.gamma * np.outer(e.f, e.f)
    return e.A.T @ kernel @ e.A


# --- the base papers: a single softmax regression, ½‖c‖² in the logits ------------------------------------------------


def normalized_gradient(f, b):
    """`(diag f − ffᵀ) c = f∘(c − ⟨f, c⟩)`."""
    c = f - b
    return f * (c - f @ c)


def normalized_hessian(f, b):
    """`diag(ŵ) − ŵ fᵀ − f ŵᵀ + ‖f‖² f fᵀ`, `ŵ = f∘f + f∘(c − ⟨f, c⟩)`."""
    what = f * f + normalized_gradient(f, b)
    return np.diag(what) - _both(what, f) + (f @ f) * np.outer(f, f)


def rescaled_gradient(u, b):
    """`u∘z`, `z = r − ⟨r, b⟩ 1`, `r = u − αb`."""
    r = u - u.sum() * b
    return u * (r - r @ b)


def rescaled_hessian(u, b):
    """`diag(u∘(z + u)) − (u∘b)uᵀ − u(u∘b)ᵀ + ‖b‖² u uᵀ`."""
    r = u - u.sum() * b
    z = r - r @ b
    return np.diag(u * (z + u)) - _both(u * b, u) + (b @ b) * np.outer(u, u)
