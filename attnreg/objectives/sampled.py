"""Hessians by importance sampling of the rows of A1 ⊗ A2, which are never formed (arXiv 2304.10411, 2305.00660,
2309.07418).

The Hessian of a matrix problem is `Aᵀ H A` with `A = A1 ⊗ A2` (n·m rows) and H block diagonal, each block a diagonal
D_j plus rank two. A row (j, i) of A has leverage at most (leverage of A1[j]) × (leverage of A2[i]); it is drawn with
probability proportional to `|D_ji| ℓ1_j ℓ2_i` and weighted by the inverse, which makes the sum an unbiased estimate.
The rank-two part is n rows of length d1·d2 and is kept exact: it costs no more than the gradient and n·(d1·d2)² / 2
flops.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import fold_blocks, rows_of, sum_over_blocks
from attnreg.lift.triangular import triangular_solve
from attnreg.objectives import one_layer_rows as ol
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.one_layer import OneLayerObjective, value_curvature
from attnreg.objectives.one_layer_hessian import Parts, packed_parts
from attnreg.objectives.row_terms import row_terms
from attnreg.problems.checks import ProblemError, check_integer
from attnreg.problems.one_layer import Unknowns

# Queries per compiled block of the sampled pass over a one-layer problem.
BLOCK = 64


def leverage_scores(A: jax.Array, *, ridge: float = 0.0) -> jax.Array:
    """`a_iᵀ (AᵀA + ridge I)⁺ a_i` for the rows of A (n, d): (n,), each in [0, 1], summing to the rank when ridge = 0.

    Cost: n·d². Source: the definition; the pseudo-inverse drops directions below d·eps of the largest.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 6) for x in leverage_scores(jnp.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))]
    [1.0, 1.0, 0.0]
    """
    values, vectors = jnp.linalg.eigh(tt.matmul(A.T, A))
    floor = values[-1] * A.shape[1] * jnp.finfo(A.dtype).eps
    kept = values > floor
    inverse = jnp.where(kept, 1 / jnp.where(kept, values + ridge, jnp.ones_like(values)), jnp.zeros_like(values))
    return tt.matmul(tt.matmul(A, vectors) ** 2, inverse)


def _weights(block, diag, scores1, scores2) -> jax.Array:
    """`|D_ji| ℓ1_j ℓ2_i` on a block, (r, m); zero on rows an earlier block has done."""
    scores = jnp.where(block.fresh, rows_of(block, scores1), jnp.zeros((), diag.dtype))
    return jnp.abs(diag) * scores[:, None] * scores2[block.document][None, :]


def _total_and_low_rank(objective: AttentionObjective, X, scores1, scores2):
    """One pass: the sum of all weights, and the exact rank-two part of the Hessian, packed."""
    problem = objective.problem
    rows, cols = tt.triangle(problem.shape[1])

    def emit(block):
        curvature = row_terms(problem, block, tt.logits(block.query, X, block.keys)).hessian
        total = jnp.sum(_weights(block, curvature.diag, scores1, scores2))
        low = curvature.low
        if low is None:
            return total, jnp.zeros((tt.triangle(problem.shape[0])[0].size, rows.size), X.dtype)
        p, q = tt.matmul(low.u, block.keys), tt.matmul(low.v, block.keys)
        uu, uv = low.uu[:, None], low.uv[:, None]
        packed = p[:, rows] * (uu * p + uv * q)[:, cols] + (uv * q)[:, rows] * p[:, cols]
        return total, tt.lift_blocks(tt.khatri_rao_square(block.lift), packed)

    return sum_over_blocks(problem, emit, block_rows=objective.block_rows)


def sampled_hessian(key: jax.Array, objective: AttentionObjective, X: jax.Array, *, samples: int) -> jax.Array:
    """An unbiased estimate of the exact Hessian from `samples` rows of A1 ⊗ A2, (d1·d2, d1·d2).

    Row (j, i) is drawn with probability `|D_ji| ℓ1_j ℓ2_i / W`, W the sum, by inverting the cumulative sum over all
    rows at stratified uniforms: draw t falls in the t-th of `samples` equal parts of [0, W).

    Args:
        key: PRNG key. objective: an `AttentionObjective` (single or matrix problem, any loss). X: (d1, d2).
        samples: rows of A1 ⊗ A2 to draw.

    Precision: relative spectral error falls at least as 1/√samples (tests/objectives/test_sampled.py,
    configs/greedy_newton.py).
    Cost: two passes, O(n·m·d2) each; samples·(d2²/2 + log(n·m)) per block of rows; n·(d1·d2)²/2.
    Source: arXiv 2304.10411, 2305.00660 sample the rows of one weighted matrix; the product form is derived in
    docs/theory/greedy_newton.md.
    """
    _check_samples("sampled_hessian", objective, AttentionObjective, samples)
    problem = objective.problem
    k, n, _, d1, d2 = problem.sizes
    scores1 = jax.vmap(leverage_scores)(problem.A1)
    scores2 = jax.vmap(leverage_scores)(problem.A2)
    total, packed = _total_and_low_rank(objective, X, scores1, scores2)
    parts = jnp.arange(samples, dtype=X.dtype) + jax.random.uniform(key, (samples,), X.dtype)
    drawn = _find(objective, X, scores1, scores2, parts / samples * total)
    rows, cols = tt.triangle(d2)
    document = drawn.row // n
    chosen = problem.A2[document, drawn.column]
    share = scores1.reshape(-1)[drawn.row] * scores2[document, drawn.column]
    weight = drawn.sign * total / (samples * jnp.where(share > 0, share, jnp.ones_like(share)))
    blocks = jax.ops.segment_sum(chosen[:, rows] * chosen[:, cols] * weight[:, None], drawn.row, k * n)
    packed = packed + tt.lift_blocks(tt.khatri_rao_square(problem.A1.reshape(k * n, d1)), blocks)
    return tt.unpack_hessian(packed, d1, d2) + problem.ridge * jnp.eye(d1 * d2, dtype=X.dtype)


def _check_samples(name: str, objective: Any, kind: type, samples: int) -> None:
    if not isinstance(objective, kind):
        article = "an" if kind.__name__[0] in "AO" else "a"
        raise ProblemError(f"{name} samples {article} {kind.__name__}, not a {type(objective).__name__}")
    check_integer("samples", samples, at_least=1)


class Drawn(NamedTuple):
    """Drawn rows of A1 ⊗ A2: query (over all documents), key, and the sign of D there, (samples,) each."""

    row: jax.Array
    column: jax.Array
    sign: jax.Array


def _find(objective: AttentionObjective, X, scores1, scores2, targets) -> Drawn:
    """Where the cumulative sum of `|D_ji| ℓ1_j ℓ2_i` over all (j, i) reaches each target; one pass over the rows."""
    problem = objective.problem
    n, m = problem.sizes[1:3]

    def update(carry, block):
        offset, found = carry
        diag = row_terms(problem, block, tt.logits(block.query, X, block.keys)).hessian.diag
        weights = _weights(block, diag, scores1, scores2)
        ladder = jnp.cumsum(weights.reshape(-1))
        local = targets - offset
        here = (local >= 0) & (local < ladder[-1])
        index = jnp.searchsorted(ladder, local, side="right").astype(jnp.int32)
        index = jnp.minimum(index, ladder.shape[0] - 1)
        row = block.document * n + block.start + index // m
        new = Drawn(row.astype(jnp.int32), index % m, jnp.sign(diag.reshape(-1)[index]))
        return offset + ladder[-1], jax.tree.map(lambda a, b: jnp.where(here, a, b), new, found)

    # A target that rounding puts beyond the last ladder keeps sign 0 and counts nothing.
    nowhere = jnp.zeros(targets.shape, jnp.int32)
    start = (jnp.zeros((), X.dtype), Drawn(nowhere, nowhere, jnp.zeros_like(targets)))
    return fold_blocks(problem, update, start, block_rows=objective.block_rows)[1]


def draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Indices with probability proportional to `weights`, by inversion of the cumulative sum."""
    ladder = jnp.cumsum(weights)
    index = jnp.searchsorted(ladder, uniform * ladder[-1], side="right")
    return jnp.minimum(index, weights.shape[0] - 1)


def spectral_error(estimate: jax.Array, exact: jax.Array) -> jax.Array:
    """Smallest ε with `(1−ε) H ≼ H̃ ≼ (1+ε) H`, H positive definite (p, p): the largest |eigenvalue| of L⁻¹(H̃−H)L⁻ᵀ."""
    factor = jnp.linalg.cholesky(exact)
    half = triangular_solve(factor, estimate - exact, lower=True)
    whole = triangular_solve(factor, half.T, lower=True)
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh((whole + whole.T) / 2)))


def sampled_joint_hessian(key: jax.Array, objective: OneLayerObjective, params: Unknowns, *, samples: int) -> jax.Array:
    """An unbiased estimate of the joint Hessian over `ravel_pytree((X, Y))` from `samples` queries.

    The part in which X takes part is `Σ_j` over queries; query j is drawn with probability ∝ its leverage in [A1, Z]
    and its whole block, low-rank part included, is computed exactly and weighted by the inverse. The Y block 2ZᵀZ ⊗ I
    is a gradient's worth of work and stays exact. Drawing single keys as well would not help: the low-rank part
    `N_j Y Yᵀ N_jᵀ` is a product of two sums over keys, whose estimate is biased unless they are drawn twice.

    Args:
        key: PRNG key. objective, params: where. samples: queries to draw, with replacement.

    Precision: relative spectral error falls as 1/√samples (tests/objectives/test_sampled.py, configs/greedy_newton.py).
    Cost: one pass O(n·m·(d2 + d3)) for Z, and samples/n of an exact Hessian.
    Source: arXiv 2309.07418 for the algorithm; the sampling derived in docs/theory/greedy_newton.md.
    """
    _check_samples("sampled_joint_hessian", objective, OneLayerObjective, samples)
    problem = objective.problem
    k, n, _, d1, d2 = problem.sizes
    d3, c = params.Y.shape

    def attended(rows):
        kept = ol.fresh_only(rows, rows.z)
        return 2 * tt.matmul(kept.T, kept)

    yy = objective.sum(attended, params) + value_curvature(problem)
    # Half of every draw is uniform: no query's weight then exceeds twice n / samples.
    leverage = jax.vmap(leverage_scores)(problem.A1).reshape(-1)
    probability = 0.5 * leverage / jnp.sum(leverage) + 0.5 / (k * n)
    which = draw(probability, jax.random.uniform(key, (samples,), problem.dtype))
    weights = 1 / (samples * probability[which])

    def one(j, weight):
        small = _single_query(problem, j // n, j % n)
        return sum_over_blocks(
            ol.streamable(small),
            lambda block: packed_parts(ol.on_rows(small, params, block), params, False, weight[None])[:3],
        )

    def scan(total, chunk):
        parts = jax.vmap(one)(*chunk)
        return jax.tree.map(lambda t, p: t + jnp.sum(p, axis=0), total, parts), None

    shapes = jax.eval_shape(one, which[0], weights[0])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    block = min(BLOCK, samples)
    padding = -samples % block
    chunks = (jnp.pad(which, (0, padding)), jnp.pad(weights, (0, padding)))
    chunks = jax.tree.map(lambda x: x.reshape(-1, block), chunks)
    (packed, direct, swapped), _ = jax.lax.scan(scan, zero, chunks)
    xx = tt.unpack_hessian(packed, d1, d2) + problem.ridge * jnp.eye(d1 * d2, dtype=problem.dtype)
    xy = direct.reshape(d1, d3, d2, c).transpose(0, 2, 1, 3) + swapped.reshape(d1, c, d2, d3).transpose(0, 2, 3, 1)
    return Parts(xx, xy.reshape(d1 * d2, d3 * c), yy).dense(c)


def _single_query(problem, document, row):
    """The problem of one query of one document, under jit: no checks run on traced data."""

    def pick(x, axis, index):
        return x if x is None or x.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(x, index, 1, axis)

    def both(x):
        return x if x is None else pick(pick(x, 0, document), 1, row)

    changes = dict(A1=both(problem.A1), B=both(problem.B), mask=both(problem.mask), weight=both(problem.weight))
    changes |= dict(A2=pick(problem.A2, 0, document), A3=pick(problem.A3, 0, document))
    leaves = {f.name: changes.get(f.name, getattr(problem, f.name)) for f in dataclasses.fields(problem)}
    if problem.causal:
        order = jnp.arange(problem.A2.shape[1])[None, None, :] <= row
        leaves["mask"] = order if leaves["mask"] is None else order & leaves["mask"]
        leaves["causal"] = False
    small = object.__new__(type(problem))
    for name, value in leaves.items():
        object.__setattr__(small, name, value)
    return small
