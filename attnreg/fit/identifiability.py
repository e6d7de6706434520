"""What the data determine: rank of the logit map, softmax gauge, and comparison of unknowns by what they do.

Softmax ignores a constant added to a row of logits. If A2 w = 1 for some w, then X and X + v wᵀ give the same attention
map for every v, so raw X must never be compared with raw X: compare *row-centred* logits.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block, rows_of, sum_over_blocks
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError
from attnreg.problems.registry import find_loss
from attnreg.rows.capping import capped
from attnreg.rows.masking import hide

# Unknowns up to which the logit map of several documents is factorised as a whole.
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


# Singular values of data with rounded entries are known up to about eps/2 × their Frobenius norm; this many times that
# is taken for rounding.
SAFETY = 8


def _rank(factor: np.ndarray, noise: Any) -> int:
    """Numerical rank of a matrix: singular values above `noise`."""
    return int(np.sum(np.linalg.svd(factor, compute_uv=False) > noise))


def _triangles(A: np.ndarray) -> np.ndarray:
    """Square R (k, d, d) with `RᵀR = AᵀA` of every document of A (k, n, d)."""
    k, n, d = A.shape
    padded = A if n >= d else np.concatenate([A, np.zeros((k, d - n, d))], axis=1)
    return np.asarray(np.linalg.qr(padded, mode="r"))


def _stacked(blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Square R with `RᵀR` the sum over blocks (·, p), one after another."""
    whole = next(blocks)
    for block in blocks:
        whole = np.asarray(np.linalg.qr(np.concatenate([whole, block]), mode="r"))
    return whole


def identifiability(problem: AttentionRegression) -> Identifiability:
    """Rank of the map X ↦ row-centred logits (plain logits for the linear loss), and the softmax gauge.

    Without masks the map is the stack of `A1 ⊗ (C A2)` over documents, C the centring projection. Up to
    `DENSE_UNKNOWNS`, and for one document, its rank is exact (to rounding); beyond, it lies between the best single
    document and the product of the ranks over all. Masks can only lower the rank; they are not taken into account.

    Args:
        problem: A1 (k, n, d1) and A2 (k, m, d2) of any floating dtype; the targets do not matter.

    Returns:
        `Identifiability`.

    Precision: a singular value counts when it is above `SAFETY` × eps × the norm of the data before centring: what is
        left of equal keys is their rounding (tests/fit/test_identifiability.py).
    Cost: O(n d1² + m d2²), plus O((d1 d2)³) for each document when there are several and it is dense. Host computation,
        not for use inside jit.
    Raises: ProblemError for a problem with rotary positions or a soft cap.
    Source: derived in docs/theory/closed_forms.md.

    Example:
        >>> import jax.numpy as jnp
        >>> A = jnp.eye(3)
        >>> identifiability(AttentionRegression(A, A, jnp.full((3, 3), 1 / 3)))
        Identifiability(unknowns=9, rank_low=6, rank_high=6, gauge=3, missing=0)
    """
    if problem.rotary is not None or problem.soft_cap is not None:
        raise ProblemError(
            f"problem.{'soft_cap' if problem.rotary is None else 'rotary'} is set, and identifiability counts "
            "directions of a full X without it; the fits count those of factors: fit.determined"
        )
    A1, A2 = np.asarray(problem.A1, np.float64), np.asarray(problem.A2, np.float64)
    centred = A2 if find_loss(problem.loss).fits == "logits" else A2 - A2.mean(axis=1, keepdims=True)
    d1, d2 = problem.shape
    eps = SAFETY * float(jnp.finfo(problem.dtype).eps)
    size1, size2 = (np.linalg.norm(A, axis=(1, 2)) for A in (A1, A2))
    R1, R2 = _triangles(A1), _triangles(centred)
    noise1, noise2 = eps * np.linalg.norm(size1), eps * np.linalg.norm(size2)
    rank1, rank2 = _rank(_stacked(iter(R1)), noise1), _rank(_stacked(iter(R2)), noise2)
    gauge = rank1 * (_rank(_stacked(iter(_triangles(A2))), noise2) - rank2)
    if len(A1) == 1:
        low = high = rank1 * rank2
    elif d1 * d2 <= DENSE_UNKNOWNS:
        whole = _stacked(np.kron(a, b) for a, b in zip(R1, R2, strict=True))
        low = high = _rank(whole, eps * np.linalg.norm(size1 * size2))
    else:
        each = zip(R1, R2, size1, size2, strict=True)
        low, high = max(_rank(a, eps * s) * _rank(b, eps * t) for a, b, s, t in each), rank1 * rank2
    return Identifiability(d1 * d2, low, high, gauge, d1 * d2 - high - gauge)


def centred_logits(problem: AttentionRegression, block: Block, s: jax.Array) -> jax.Array:
    """Logits s (r, m) of a block minus their mean over each row's allowed keys, or themselves where the loss fits them.

    Masked keys are 0.
    """
    if find_loss(problem.loss).fits == "logits":
        return hide(s, block.mask, 0)
    if block.mask is None:
        return s - jnp.mean(s, axis=1, keepdims=True)
    allowed = jnp.maximum(jnp.sum(block.mask, axis=1, keepdims=True), 1).astype(s.dtype)
    mean = jnp.sum(jnp.where(block.mask, s, jnp.zeros_like(s)), axis=1, keepdims=True) / allowed
    return jnp.where(block.mask, s - mean, jnp.zeros_like(s))


def logit_distance(problem: AttentionRegression, X: jax.Array | Factors, Z: jax.Array | Factors) -> jax.Array:
    """`‖C(S(X) − S(Z))‖_F / ‖C S(Z)‖_F` over all documents, C centring rows: the distance that the gauge cannot change.

    Args:
        problem: the data on which to compare. X, Z: (d1, d2), or `Factors`, of the data's dtype; a problem with rotary
            positions takes factors only. Logits are scaled and capped as the problem says.

    Returns:
        A scalar.

    Precision: that of the logits, eps·‖S‖ (tests/fit/test_identifiability.py).
    Cost: two logit products, streamed.
    Raises: ProblemError for a full X of a problem with rotary positions, or factors of too few columns.
    Source: derived in docs/theory/closed_forms.md.
    """

    other = _seen(problem, "Z", Z)
    # What is linear in X is subtracted there: no digits are lost to what X and Z share.
    linear = problem.soft_cap is None
    if linear and not isinstance(X, Factors) and not isinstance(Z, Factors):
        apart = _seen(problem, "X", X - Z)
    else:
        linear, apart = False, _seen(problem, "X", X)

    def emit(block):
        size, gap = (centred_logits(problem, block, logits(block)) for logits in (other, apart))
        gap = gap if linear else gap - size
        fresh, zero = block.fresh[:, None], jnp.zeros((), size.dtype)
        return jnp.sum(jnp.where(fresh, gap * gap, zero)), jnp.sum(jnp.where(fresh, size * size, zero))

    gap, size = sum_over_blocks(problem, emit)
    return jnp.sqrt(gap / size)


def _seen(problem: AttentionRegression, name: str, x: jax.Array | Factors) -> Callable[[Block], jax.Array]:
    """The logits of a block at an unknown, as the softmax sees them."""
    if isinstance(x, Factors):
        rows = FactoredObjective(problem, x.Q.shape[1])._projected(x)

        def raw(block):
            return tt.matmul(rows_of(block, rows.A1), rows.A2[block.document].T)

    elif problem.rotary is not None:
        raise ProblemError(f"{name} is a {type(x).__name__}; problem.rotary is set, so it must be Factors(Q, K)")
    else:

        def raw(block):
            return tt.logits(block.query, x, block.keys)

    return lambda block: capped(raw(block), problem.scale, problem.soft_cap).logits
