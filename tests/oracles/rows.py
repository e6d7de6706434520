"""Row functions written the naive way: residual, Jacobian and every second derivative, from the formulas alone.

A row loss is `Σ_i r_i(s)²`. With J the Jacobian of r and K_i the Hessian of r_i, the gradient is `2 Jᵀr`, the
Gauss–Newton matrix `2 JᵀJ` and the Hessian `2 JᵀJ + 2 Σ_i r_i K_i`. "kl" is `Σ_i b_i (log b_i/β − log f_i)`, each term
differentiated by itself. Nothing here knows that the result is diagonal plus
rank two, so agreement with the closed forms tests that derivation. Works in float64, in extended precision and (with
`mp_exp`) in mpmath.

`sign=+1` replaces every subtraction by an addition; with absolute values as input that is the *magnitude* of each
quantity, to which rounding errors are proportional (`tests/oracles/scale.py`).
"""

from typing import NamedTuple

import mpmath
import numpy as np

LOSSES = ("normalized", "rescaled", "cosh_rescaled", "sinh_rescaled", "linear", "kl")

mp_exp, mp_log = np.frompyfunc(mpmath.exp, 1, 1), np.frompyfunc(mpmath.log, 1, 1)


class Row(NamedTuple):
    """Value (), gradient (m,), Hessian (m, m) and Gauss–Newton matrix (m, m) of one row."""

    value: object
    gradient: np.ndarray
    hessian: np.ndarray
    gauss_newton: np.ndarray


def activation(loss, s, exp=np.exp):
    """g, g', g'' of the rescaled family at s."""
    if loss == "rescaled":
        return (exp(s),) * 3
    cosh, sinh = (exp(s) + exp(-s)) / 2, (exp(s) - exp(-s)) / 2
    if exp is np.exp:
        sinh = np.sinh(s)
    return (cosh, sinh, cosh) if loss == "cosh_rescaled" else (sinh, cosh, sinh)


def softmax_residual(f, b, sign=-1):
    """r = f − b, its Jacobian diag f − ffᵀ, and ∇²f_i = f_i[(e_i − f)(e_i − f)ᵀ − diag f + ffᵀ]."""
    eye = np.eye(len(f), dtype=int).astype(f.dtype)
    outer, diagonal = f[:, None] * f[None, :], eye * f[:, None]
    apart = eye + sign * f[None, :]
    K = f[:, None, None] * (apart[:, :, None] * apart[:, None, :] + (sign * diagonal + outer)[None])
    return f + sign * b, diagonal + sign * outer, K


def rescaled_residual(g, g1, g2, b, sign=-1):
    """r = g − ⟨g, 1⟩ b, its Jacobian (I − b1ᵀ) diag g', and ∇²r_i = diag(g''∘(e_i − b_i 1))."""
    eye = np.eye(len(g), dtype=int).astype(g.dtype)
    J = eye * g1[None, :] + sign * b[:, None] * g1[None, :]
    K = eye[None] * (g2[None, :] * (eye + sign * b[:, None]))[:, :, None]
    return g + sign * np.sum(g) * b, J, K


def assemble(r, J, K) -> Row:
    """The four row quantities of `Σ r²`."""
    gauss_newton = 2 * J.T.dot(J)
    return Row(r.dot(r), 2 * J.T.dot(r), gauss_newton + 2 * np.tensordot(r, K, 1), gauss_newton)


def softmax(s, exp=np.exp):
    """Softmax of one row."""
    e = exp(s - np.max(s))
    return e / np.sum(e)


def residual(loss, s, b, exp=np.exp):
    """r, J, K of a loss at logits s (m,)."""
    if loss == "normalized":
        return softmax_residual(softmax(s, exp), b)
    if loss == "linear":
        eye = np.eye(len(s), dtype=int).astype(s.dtype)
        return s - b, eye, np.zeros((len(s),) * 3, s.dtype)
    return rescaled_residual(*activation(loss, s, exp), b)


def kl(s, b, exp=np.exp, sign=-1) -> Row:
    """`Σ b_i (log(b_i/β) − log f_i)`: with `∇ log f_i = e_i − f` and `∇² log f_i = −(diag f − ffᵀ)`, term by term."""
    log = np.log if exp is np.exp else mp_log
    f, eye = softmax(s, exp), np.eye(len(s), dtype=int).astype(s.dtype)
    log_f = s - np.max(s) - log(np.sum(exp(s - np.max(s))))
    keys = np.flatnonzero(b > 0)
    if sign > 0:
        # Magnitudes: an error of one unit in a logit or a target moves a term by its b, whatever its logarithm.
        value = sum((b[i] * (1 + abs(log(b[i])) + abs(log(np.sum(b))) + abs(log_f[i])) for i in keys), s.dtype.type(0))
    else:
        value = sum((b[i] * (log(b[i] / np.sum(b)) - log_f[i]) for i in keys), s.dtype.type(0))
    G = softmax_residual(f, b, sign)[1]
    gradient = sum((b[i] * (f + sign * eye[i]) for i in range(len(s))), 0 * s)
    hessian = sum((b[i] * G for i in range(len(s))), 0 * eye)
    return Row(value, gradient, hessian, hessian)


def naive(loss, s, b, exp=np.exp) -> Row:
    """A row of any loss, all keys allowed."""
    return kl(s, b, exp) if loss == "kl" else assemble(*residual(loss, s, b, exp))


def embed(row: Row, allowed, m) -> Row:
    """A row over the allowed keys as a row over all m keys: zeros elsewhere."""
    dtype = row.gradient.dtype
    gradient, hessian, gauss_newton = np.zeros(m, dtype), np.zeros((m, m), dtype), np.zeros((m, m), dtype)
    gradient[allowed] = row.gradient
    hessian[np.ix_(allowed, allowed)] = row.hessian
    gauss_newton[np.ix_(allowed, allowed)] = row.gauss_newton
    return Row(row.value, gradient, hessian, gauss_newton)


def row(loss, s, b, mask=None, exp=np.exp) -> Row:
    """One row of a loss; masked keys take no part, and a row without keys is zero."""
    m = len(s)
    allowed = np.arange(m) if mask is None else np.flatnonzero(mask)
    if allowed.size == 0:
        return Row(s.dtype.type(0), np.zeros(m, s.dtype), np.zeros((m, m), s.dtype), np.zeros((m, m), s.dtype))
    return embed(naive(loss, s[allowed], b[allowed], exp), allowed, m)
