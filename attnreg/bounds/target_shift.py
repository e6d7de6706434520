"""In-context learning as a change of targets: moving weights or data equals keeping both and moving B.

For every residual c and every move p → p', `shifted_targets` returns the B̃ with `c(p'; B) = c(p; B̃)` exactly:

* normalized  `B̃ = B − (F' − F)`;
* rescaled  `b̃_j = α_j⁻¹ (u_j − u'_j + α'_j b_j)`; the same for cosh and sinh in the place of exp, where α_j ≠ 0;
* one-layer  `B̃ = B − (F'A3'Y' − F A3 Y)`.

`shift_limit` bounds `‖B̃ − B‖_F` for the very move that was made, `published_limit` by the norm-by-norm constants.
Proofs: docs/theory/target_shift.md.
A weight move changes X (and Y), a data move A1, A2 (and A3); a single regression is one row.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds import quantities as Q
from attnreg.bounds.domain import Norms, Point
from attnreg.bounds.estimate import exp, times
from attnreg.bounds.registry import BOUNDS

# The rescaled family: its entrywise functions by the name of the loss.
ACTIVATIONS = {"rescaled": jnp.exp, "cosh": jnp.cosh, "sinh": jnp.sinh}
LOSSES = ("normalized", "rescaled", "one_layer", "cosh", "sinh")


def residual(p: Point, loss: str) -> jax.Array:
    """The residual of `loss`, one of `LOSSES`, at p, shaped like B."""
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; it must be one of {', '.join(LOSSES)}")
    if loss in ACTIVATIONS:
        return Q.residual_activated(p, ACTIVATIONS[loss])
    return {"normalized": Q.residual, "one_layer": Q.residual_one_layer}[loss](p)


def shifted_targets(p: Point, moved: Point, loss: str) -> jax.Array:
    """B̃ such that `residual(moved) = residual(p with targets B̃)`.

    Args:
        p: the instance before, with targets B.
        moved: the instance after; its own B is not read.
        loss: one of `LOSSES`.

    Returns:
        B̃, shaped like B.

    Precision: the identity holds to a few eps of the residual's terms (tests/bounds/test_target_shift.py).
    Source: arXiv 2304.13276, 2307.02419 for the idea; derived in docs/theory/target_shift.md.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.bounds.domain import softmax_point
        >>> p = softmax_point(jnp.eye(2), jnp.zeros(2), jnp.array([0.5, 0.5]))
        >>> moved = p._replace(X=jnp.array([[40.0, 0.0]]))
        >>> [round(float(z), 3) for z in shifted_targets(p, moved, "normalized")[0]]
        [0.0, 1.0]
    """
    after = moved._replace(B=p.B)
    if loss in ACTIVATIONS:
        before, behind = (Q.activated(z, ACTIVATIONS[loss]) for z in (p, after))
        change = before - behind + jnp.sum(behind, axis=1, keepdims=True) * p.B
        return change / jnp.sum(before, axis=1, keepdims=True)
    return p.B - (residual(after, loss) - residual(p, loss))


def shift_limit(p: Point, moved: Point, loss: str) -> float:
    """A sharp upper limit of `‖B̃ − B‖_F` for this move (host floats).

    normalized `½‖ΔS‖_F`; rescaled and cosh `√(Σ_j κ_j²(e^{‖Δs_j‖_∞} − 1)²)`, κ_j = √2 (simplex) or 1 + ‖b_j‖; sinh the
    same with κ_j times `Σ cosh s_j / |Σ sinh s_j|`;
    one-layer `½‖ΔS‖_F ‖A3Y‖₂ + ‖F'‖₂ ‖A3'Y' − A3Y‖_F`.
    """
    change = np.asarray(Q.logits(moved) - Q.logits(p), np.float64)
    half = 0.5 * float(np.linalg.norm(change))
    if loss == "normalized":
        return half
    if loss in ACTIVATIONS:
        return float(np.linalg.norm(_relative_factor(p, loss) * _expm1(np.abs(change).max(axis=1))))
    values, values_moved = np.asarray(Q.h(p), np.float64), np.asarray(Q.h(moved), np.float64)
    rows = float(np.linalg.norm(np.asarray(Q.f(moved), np.float64), 2))
    return half * float(np.linalg.norm(values, 2)) + rows * float(np.linalg.norm(values_moved - values))


def published_limit(p: Point, moved: Point, loss: str) -> float:
    """The norm-by-norm limit of the same shift: the sum over the moved variables of constant × move.

    One variable is moved at a time, from p to `moved`; every constant holds on the smallest domain that contains both.
    For the rescaled loss the residual's constant is divided by the smallest α, `β = e^{−L}`, and the norm of Δα·B̃
    is already in it; for cosh by the number of keys; for sinh, whose α may vanish, the limit is infinite.
    """
    norms = Norms.of(p, moved)
    if loss != "one_layer":
        norms = norms._replace(b=max(norms.b, 1.0))
    family = "one_layer" if loss == "one_layer" else "attention"
    quantity = f"residual_{loss}" if loss in ACTIVATIONS else "residual"
    total = 0.0
    for variable in ("X", "Y", "A1", "A2", "A3"):
        before, after = getattr(p, variable), getattr(moved, variable)
        if before is None or after is None:
            continue
        move = float(np.linalg.norm(np.asarray(after, np.float64) - np.asarray(before, np.float64)))
        if move:
            total += times(BOUNDS[f"{family}.{quantity}.{variable}"].norm_by_norm(norms), move)
    smallest = {"rescaled": exp(norms.logits), "cosh": 1.0 / norms.n, "sinh": math.inf}
    return times(total, smallest.get(loss, 1.0))


def gradient_step(p: Point, loss: str, step: Any) -> Point:
    """p after one gradient step on the objective, `X' = X − η ∇_X L` (and Y in the one-layer loss); η a scalar."""
    family, rescaled = ("one_layer", False) if loss == "one_layer" else ("attention", ACTIVATIONS.get(loss, False))
    moved = {"X": p.X - step * Q.gradient(p, family, rescaled=rescaled)}
    if loss == "one_layer":
        assert p.Y is not None, "a one-layer point has a Y"
        moved["Y"] = p.Y - step * Q.gradient(p, family, unknown="Y")
    return p._replace(**moved)


def attention_layer(A: jax.Array, QK: jax.Array, V: jax.Array, *, scale: float, kind: str = "softmax") -> jax.Array:
    """Tokens after one self-attention layer with a skip: `A + scale · P A V`.

    `P = softmax(A QK Aᵀ)` by rows, or `P = A QK Aᵀ / n` for kind "linear". A (n, d), QK and V (d, d).

    >>> import jax.numpy as jnp
    >>> attention_layer(jnp.ones((2, 2)), jnp.zeros((2, 2)), jnp.eye(2), scale=1.0).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    scores = jnp.matmul(jnp.matmul(A, QK, precision=Q.PRECISION), A.T, precision=Q.PRECISION)
    if kind == "softmax":
        weights = jax.nn.softmax(scores, axis=1)
    elif kind == "linear":
        weights = scores / A.shape[0]
    else:
        raise ValueError(f"kind is {kind!r}; it must be 'softmax' or 'linear'")
    return A + scale * jnp.matmul(weights, jnp.matmul(A, V, precision=Q.PRECISION), precision=Q.PRECISION)


def telescoped_limit(path: list[Point], loss: str) -> float:
    """Limit of the total shift along p_0 → … → p_T from its steps alone.

    normalized and one-layer: the sum of `shift_limit` over the steps. Rescaled family: `κ (e^{Σ_t ‖ΔS_t‖_∞} − 1)` by
    rows, because log-changes add up where relative changes multiply.
    """
    steps = list(itertools.pairwise(path))
    if loss not in ACTIVATIONS:
        return sum(shift_limit(p, p2, loss) for p, p2 in steps)
    total = sum(np.abs(np.asarray(Q.logits(p2) - Q.logits(p), np.float64)).max(axis=1) for p, p2 in steps)
    return float(np.linalg.norm(_relative_factor(path[0], loss) * _expm1(total)))


def _expm1(x: Any) -> np.ndarray:
    """`e^x − 1`, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return np.expm1(x)


def _relative_factor(p: Point, loss: str) -> np.ndarray:
    """`‖Δc‖ ≤ κ α (e^{‖Δs‖_∞} − 1)` by rows: κ = √2 for a row in the simplex, `1 + ‖b‖` for any other.

    `|Δ sinh s_i| ≤ cosh s_i (e^{|Δs_i|} − 1)`, so that sinh has Σ cosh for Σ |sinh| in it.
    """
    B, S = np.asarray(p.B, np.float64), np.asarray(Q.logits(p), np.float64)
    simplex = (B >= 0).all(axis=1) & (np.abs(B.sum(axis=1) - 1.0) < 1e-6)
    factor = np.where(simplex, np.sqrt(2.0), 1.0 + np.linalg.norm(B, axis=1))
    if loss != "sinh":
        return factor
    with np.errstate(divide="ignore"):
        return factor * np.cosh(S).sum(axis=1) / np.abs(np.sinh(S).sum(axis=1))
