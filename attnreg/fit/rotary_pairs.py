"""Heads with rotary positions as sums over pairs of columns: logits linear in one complex scale a pair.

A rotation turns each pair of columns by an angle of its own, so a compressed head commutes with it exactly if it keeps
some of the pairs and multiplies each by a complex number `a + ib`. With turned queries q and keys k, (n, 2) for a pair,

    logits = Σ_pairs a U + b V,   U = q₁ k₁ᵀ + q₂ k₂ᵀ,   V = q₁ k₂ᵀ − q₂ k₁ᵀ,

and the head as it is has a = 1 and b = 0. Unknowns x are (a…, b…), 2p numbers for p pairs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.lift.tensor_trick import einsum
from attnreg.objectives.factors import Factors
from attnreg.problems.checks import ProblemError
from attnreg.rows import softmax
from attnreg.rows.normalized import normalized

_FLOOR = 1e-6  # what is added to a metric before it is inverted, relative to its mean eigenvalue


class Quadratic(NamedTuple):
    """A loss, its gradient (2p,) and Gauss–Newton matrix (2p, 2p) at a point."""

    value: jax.Array
    gradient: jax.Array
    matrix: jax.Array


def columns(width: int, layout: str) -> np.ndarray:
    """The two columns of every pair, (w/2, 2): "half" pairs i with i + w/2, "interleaved" 2i with 2i + 1.

    >>> columns(4, "half").tolist()
    [[0, 2], [1, 3]]
    """
    if width % 2:
        raise ProblemError(f"q has {width} columns; rotary positions turn pairs: there must be an even number")
    order = np.arange(width)
    return order.reshape(2, -1).T if layout == "half" else order.reshape(-1, 2)


def in_pairs(x: ArrayLike, layout: str) -> np.ndarray:
    """Turned rows (…, n, w) as pairs (…, n, w/2, 2), float32."""
    x = np.asarray(x, np.float32)
    return x[..., columns(x.shape[-1], layout)]


class Texts(NamedTuple):
    """Texts of one head: q, k (t, n, p, 2) turned pairs, maps F (t, n, n), and values (t, n, c) or None.

    Without values the loss is `‖softmax(Σ a U + b V) − F‖²`; with values W it is `‖(softmax(Σ a U + b V) − F) W‖²`.
    """

    q: jax.Array
    k: jax.Array
    maps: jax.Array
    values: jax.Array | None = None

    def kept(self, pairs: np.ndarray) -> "Texts":
        """With some of the pairs only, (p',) integers."""
        return self._replace(q=self.q[:, :, pairs], k=self.k[:, :, pairs])

    def size(self) -> float:
        """The squared norm of what is matched: maps or outputs."""
        targets = self.maps if self.values is None else einsum("tij,tjc->tic", self.maps, self.values)
        return float(jnp.sum(targets**2))


def fitted(texts: Texts, x: jax.Array) -> Quadratic:
    """The loss at x (2p,) and its Gauss–Newton model, summed over texts, causal.

    Cost: 4p² n² multiplications a text for the matrix of maps, 2p n² c + 4p² n c for that of outputs, and the memory of
    2p (n, n) arrays.
    """
    return _fitted(texts, x, whole=True)


def loss(texts: Texts, x: jax.Array) -> float:
    """The value of `fitted` alone, a scalar, at x (2p,)."""
    return float(_fitted(texts, x, whole=False).value)


@jax.jit(static_argnames="whole")
def _fitted(texts: Texts, x: jax.Array, whole: bool) -> Quadratic:
    allowed = jnp.asarray(np.tri(texts.q.shape[1], dtype=bool))
    one = _on_maps if texts.values is None else _on_outputs

    def add(total: Quadratic, text: Texts):
        parts = _parts(text.q, text.k)
        found = one(einsum("a,aij->ij", x, parts), parts, text, allowed, whole)
        return jax.tree.map(jnp.add, total, found), None

    zero = jnp.zeros_like(x)
    return jax.lax.scan(add, Quadratic(zero[0], zero, zero[:, None] * zero[None, :]), texts)[0]


def _on_maps(logits: jax.Array, parts: jax.Array, text: Texts, allowed: jax.Array, whole: bool) -> Quadratic:
    terms = normalized(logits, text.maps, allowed)
    value = jnp.sum(terms.value)
    if not whole:
        return _value_alone(value, parts)
    moved = jax.vmap(terms.gauss_newton.apply)(parts)
    return Quadratic(value, einsum("aij,ij->a", parts, terms.gradient), einsum("aij,bij->ab", parts, moved))


def _on_outputs(logits: jax.Array, parts: jax.Array, text: Texts, allowed: jax.Array, whole: bool) -> Quadratic:
    assert text.values is not None
    f = softmax(logits, allowed)
    residual = einsum("ij,jc->ic", f - text.maps, text.values)
    value = jnp.sum(residual**2)
    if not whole:
        return _value_alone(value, parts)
    along = parts * f[None]
    along = along - jnp.sum(along, axis=2, keepdims=True) * f[None]
    J = einsum("aij,jc->aic", along, text.values)
    return Quadratic(value, 2 * einsum("aic,ic->a", J, residual), 2 * einsum("aic,bic->ab", J, J))


def _value_alone(value: jax.Array, parts: jax.Array) -> Quadratic:
    zero = jnp.zeros(parts.shape[0], parts.dtype)
    return Quadratic(value, zero, zero[:, None] * zero[None, :])


def metrics(texts: Texts) -> dict[str, np.ndarray]:
    """Three metrics of x, each (2p, 2p): by what the logits lose, the centred logits, and to first order the targets.

    The last is called "maps", or "outputs" where the texts have values.

    Cost: 12p² n² multiplications a text.
    """
    q = texts.q
    x = jnp.concatenate([jnp.ones(q.shape[2], q.dtype), jnp.zeros(q.shape[2], q.dtype)])
    plain, centred = (np.asarray(a, np.float64) for a in _plain(q, texts.k))
    targets = "maps" if texts.values is None else "outputs"
    return {"logits": plain, "centred": centred, targets: np.asarray(fitted(texts, x).matrix, np.float64) / 2}


@jax.jit
def _plain(q, k):
    n = q.shape[1]
    allowed = jnp.asarray(np.tri(n), q.dtype)

    def one(total, text):
        parts = _parts(*text) * allowed[None]
        mean = jnp.sum(parts, axis=-1) / jnp.arange(1, n + 1, dtype=q.dtype)[None, :]
        away = (parts - mean[..., None]) * allowed[None]
        return tuple(s + einsum("aij,bij->ab", a, a) for s, a in zip(total, (parts, away), strict=True)), None

    zero = jnp.zeros((2 * q.shape[2], 2 * q.shape[2]), q.dtype)
    return jax.lax.scan(one, (zero, zero), (q, k))[0]


def _parts(q, k):
    """U and V of every pair, (2p, n, n), of one text."""
    U = einsum("ipc,jpc->pij", q, k)
    V = einsum("ip,jp->pij", q[..., 0], k[..., 1]) - einsum("ip,jp->pij", q[..., 1], k[..., 0])
    return jnp.concatenate([U, V])


def eliminated(matrices: np.ndarray) -> np.ndarray:
    """The pairs (p,) in the order in which they are taken out: the one that costs least, again and again.

    The last r/2 of them are what is left at rank r. The cost is `Σ_h min_x (x − e)ᵀ H_h (x − e)` for metrics H
    (heads, 2p, 2p), x zero outside the pairs that are left and e the head as it is: all heads keep the same pairs, each
    with scales of its own.

    Cost: p inversions of (2p, 2p) matrices a head.

    >>> eliminated(np.diag([3.0, 1.0, 2.0, 1.0, 1.0, 1.0])[None]).tolist()
    [1, 2, 0]
    """
    left, order = list(range(matrices.shape[1] // 2)), []
    while left:
        costs, p = np.zeros(len(left)), len(left)
        for H in matrices:
            x, inverse = _least(H, left)
            a, b, ab = np.diag(inverse)[:p], np.diag(inverse)[p:], np.diag(inverse, p)
            # xᵀ B⁻¹ x with the block B of each pair in the inverse.
            costs += (b * x[:p] ** 2 - 2 * ab * x[:p] * x[p:] + a * x[p:] ** 2) / (a * b - ab**2)
        order.append(left.pop(int(np.argmin(costs))))
    return np.asarray(order)


def least_squares(H: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The scales (2·kept,) for which `(x − e)ᵀ H (x − e)` is least, for a metric H (2p, 2p) and pairs kept (…,).

    Cost: one inversion.
    """
    return _least(H, list(kept))[0]


def _least(H: np.ndarray, kept: list[int]) -> tuple[np.ndarray, np.ndarray]:
    p = len(H) // 2
    places = [*kept, *(p + i for i in kept)]
    floor = _FLOOR * np.trace(H) / len(H)
    e = (np.arange(2 * p) < p).astype(np.float64)
    inverse = np.linalg.inv(H[np.ix_(places, places)] + floor * np.eye(len(places)))
    # The floor pulls towards the head as it is, not towards zero.
    return inverse @ (H[places] @ e + floor * e[places]), inverse


def projections(kept: np.ndarray, scales: np.ndarray, width: int, layout: str) -> Factors:
    """P (h, w, r) and S (w, r) of r/2 pairs kept (r/2,) and scales (h, r), their columns in the layout of the head.

    >>> projections(np.array([1]), np.array([[2.0, 0.5]]), 4, "half").Q[0].tolist()
    [[0.0, 0.0], [2.0, 0.5], [0.0, 0.0], [-0.5, 2.0]]
    """
    rank = 2 * len(kept)
    old, new = columns(width, layout)[kept], columns(rank, layout)
    P, S = np.zeros((len(scales), width, rank)), np.zeros((width, rank))
    a, b = scales[:, : len(kept)], scales[:, len(kept) :]
    S[old[:, 0], new[:, 0]] = S[old[:, 1], new[:, 1]] = 1.0
    P[:, old[:, 0], new[:, 0]] = P[:, old[:, 1], new[:, 1]] = a
    P[:, old[:, 0], new[:, 1]], P[:, old[:, 1], new[:, 0]] = b, -b
    return Factors(P, S)  # type: ignore[arg-type]
