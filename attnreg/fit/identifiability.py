"""What the data determine: rank of the logit map, softmax gauge, and comparison of unknowns by what they do.

Softmax ignores a constant added to a row of logits. If A2 w = 1 for some w, then X and X + v wᵀ give the same attention
map for every v, so raw X must never be compared with raw X: compare *row-centred* logits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block, sum_over_blocks
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.registry import find_loss

# Unknowns up to which the Gram matrix of the logit map is diagonalised as a whole.
DENSE_UNKNOWNS = 1500


class Identifiability(NamedTuple):
    """Which directions of X the data see; all entries are integers.

    Args:
        unknowns: d1·d2.
        rank_low, rank_high: the rank of the map from X to row-centred logits lies between them; equal when exact.
        gauge: dimension of the softmax gauge {v wᵀ : A2 w constant on every document, v in the row space of A1}; 0 for
            the linear loss.
        missing: unknowns − rank_high − gauge, the directions lost because A1 or A2 do not span their space.
    """

    unknowns: int
    rank_low: int
    rank_high: int
    gauge: int
    missing: int

    @property
    def exact(self) -> bool:
        """Whether the rank is known exactly."""
        return self.rank_low == self.rank_high

    def describe(self) -> str:
        """One line for a table.

        >>> Identifiability(289, 272, 272, 17, 0).describe()
        '272 of 289 directions determined; softmax gauge 17, lost to rank-deficient data 0'
        """
        rank = str(self.rank_high) if self.exact else f"{self.rank_low} to {self.rank_high}"
        return (
            f"{rank} of {self.unknowns} directions determined; softmax gauge {self.gauge}, "
            f"lost to rank-deficient data {self.missing}"
        )


def _rank(gram: np.ndarray, rounding: float) -> int:
    """Numerical rank of a symmetric positive semidefinite matrix: eigenvalues above `rounding` times the largest."""
    values = np.linalg.eigvalsh(gram)
    return int(np.sum(values > rounding * values[-1])) if values[-1] > 0 else 0


def identifiability(problem: AttentionRegression) -> Identifiability:
    """Rank of the map X ↦ row-centred logits (plain logits for the linear loss), and the softmax gauge.

    The Gram matrix of that map without masks is `Σ_k (A1ᵀA1) ⊗ (A2ᵀ C A2)`, C the centring projection. Up to
    `DENSE_UNKNOWNS` its rank is exact (to rounding); beyond, it lies between the best single document and the product
    of the ranks of the sums. Masks can only lower the rank; they are not taken into account.

    Args:
        problem: A1 (k, n, d1) and A2 (k, m, d2) of any floating dtype; the targets do not matter.

    Returns:
        `Identifiability`.

    Precision: ranks are told apart from rounding of the data (tests/fit/test_identifiability.py).
    Cost: O(n d1² + m d2²), plus O((d1 d2)³) when dense. Host computation, not for use inside jit.
    Source: derived in docs/theory/closed_forms.md.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> identifiability(AttentionRegression(A, A, jnp.full((3, 3), 1 / 3)))
        Identifiability(unknowns=9, rank_low=6, rank_high=6, gauge=3, missing=0)
    """
    A1, A2 = np.asarray(problem.A1, np.float64), np.asarray(problem.A2, np.float64)
    centred = A2 if find_loss(problem.loss).fits == "logits" else A2 - A2.mean(axis=1, keepdims=True)
    k, n, m, d1, d2 = problem.sizes
    # Entries rounded to eps perturb singular values by about eps·√(rows)·‖A‖, and Gram eigenvalues by its square.
    eps = float(jnp.finfo(problem.dtype).eps)
    rounding = max((8 * eps) ** 2 * k * max(n, m), 8 * max(d1, d2) * np.finfo(np.float64).eps)
    grams1, grams2 = np.swapaxes(A1, 1, 2) @ A1, np.swapaxes(centred, 1, 2) @ centred
    rank1, rank2 = _rank(grams1.sum(0), rounding), _rank(grams2.sum(0), rounding)
    gauge = rank1 * (_rank((np.swapaxes(A2, 1, 2) @ A2).sum(0), rounding) - rank2)
    if d1 * d2 <= DENSE_UNKNOWNS:
        whole = np.einsum("kac,kbd->abcd", grams1, grams2).reshape(d1 * d2, d1 * d2)
        low = high = _rank(whole, rounding)
    else:
        ranks = (_rank(g1, rounding) * _rank(g2, rounding) for g1, g2 in zip(grams1, grams2, strict=True))
        low, high = max(ranks), rank1 * rank2
    return Identifiability(d1 * d2, low, high, gauge, d1 * d2 - high - gauge)


def centred_logits(problem: AttentionRegression, block: Block, X: jax.Array) -> jax.Array:
    """Logits of a block minus their mean over each row's allowed keys, (r, m); masked keys are 0."""
    s = tt.logits(block.query, X, block.keys)
    if find_loss(problem.loss).fits == "logits":
        return s
    if block.mask is None:
        return s - jnp.mean(s, axis=1, keepdims=True)
    allowed = jnp.maximum(jnp.sum(block.mask, axis=1, keepdims=True), 1).astype(s.dtype)
    mean = jnp.sum(jnp.where(block.mask, s, jnp.zeros_like(s)), axis=1, keepdims=True) / allowed
    return jnp.where(block.mask, s - mean, jnp.zeros_like(s))


def logit_distance(problem: AttentionRegression, X: jax.Array, Z: jax.Array) -> jax.Array:
    """`‖C(S(X) − S(Z))‖_F / ‖C S(Z)‖_F` over all documents, C centring rows: the distance that the gauge cannot change.

    Args:
        problem: the data on which to compare. X, Z: (d1, d2), of the data's dtype.

    Returns:
        A scalar.

    Precision: that of the logits, eps·‖S‖ (tests/fit/test_identifiability.py).
    Cost: two logit products, streamed.
    Source: derived in docs/theory/closed_forms.md.
    """

    def emit(block):
        fresh = block.fresh[:, None]
        gap = jnp.where(fresh, centred_logits(problem, block, X - Z), jnp.zeros((), X.dtype))
        size = jnp.where(fresh, centred_logits(problem, block, Z), jnp.zeros((), X.dtype))
        return jnp.sum(gap * gap), jnp.sum(size * size)

    gap, size = sum_over_blocks(problem, emit)
    return jnp.sqrt(gap / size)
