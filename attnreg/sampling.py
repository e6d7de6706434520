"""Hessians by importance sampling of the rows of A1 ⊗ A2, which are never formed (arXiv 2304.10411, 2305.00660,
2309.07418).

The Hessian of a matrix problem is `Aᵀ H A` with `A = A1 ⊗ A2` (n·m rows) and H block diagonal, each block a diagonal
D_j plus rank two. A row (j, i) of A has leverage at most (leverage of A1[j]) × (leverage of A2[i]); it is drawn with
probability proportional to `|D_ji| ℓ1_j ℓ2_i` and weighted by the inverse, which makes the sum an unbiased estimate.
The rank-two part is n rows of length d1·d2 and is kept exact: it costs no more than the gradient and n·(d1·d2)² / 2
flops.
"""

import jax
import jax.numpy as jnp

from attnreg import tensor_trick as tt
from attnreg.curvature import Curvature
from attnreg.objectives import AttentionObjective, row_terms
from attnreg.streaming import _block as row_block
from attnreg.streaming import map_over_blocks, sum_over_blocks


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


def _diagonal_and_low_rank(objective: AttentionObjective, X, scores2):
    """One pass: the mass Σ_i |D_ji| ℓ2_i of every row (k, n), and the exact rank-two part of the Hessian, packed."""
    problem = objective.problem
    rows, cols = tt.triangle(problem.shape[1])

    def terms(block):
        return row_terms(problem, block, tt.logits(block.query, X, block.keys)).hessian

    def mass(block):
        return tt.matmul(jnp.abs(terms(block).diag), scores2[block.document])

    def low_rank(block):
        curvature = terms(block)
        if curvature.u is None:
            return jnp.zeros((tt.triangle(problem.shape[0])[0].size, rows.size), X.dtype)
        p, q = tt.matmul(curvature.u, block.keys), tt.matmul(curvature.v, block.keys)
        uu, uv = curvature.uu[:, None], curvature.uv[:, None]
        packed = p[:, rows] * (uu * p + uv * q)[:, cols] + (uv * q)[:, rows] * p[:, cols]
        return tt.lift_blocks(tt.khatri_rao_square(block.lift), packed)

    masses = map_over_blocks(problem, mass, block_rows=objective.block_rows)
    return masses, sum_over_blocks(problem, low_rank, block_rows=objective.block_rows)


def sampled_hessian(key: jax.Array, objective: AttentionObjective, X: jax.Array, *, samples: int) -> jax.Array:
    """An unbiased estimate of the exact Hessian from `samples` rows of A1 ⊗ A2, (d1·d2, d1·d2).

    Queries j are drawn with probability ∝ `ℓ1_j Σ_i |D_ji| ℓ2_i` and keys i of each with probability ∝ `|D_ji| ℓ2_i`.

    Args:
        key: PRNG key. objective: an `AttentionObjective` (single or matrix problem, any loss). X: (d1, d2).
        samples: rows of A1 ⊗ A2 to draw.

    Precision: relative spectral error falls as 1/√samples (tests/test_sampling.py, configs/greedy_newton.py).
    Cost: one pass, O(n·m·d2), for the probabilities; min(n, samples)·m·d2 for the drawn rows; samples·d2² +
    n·(d1·d2)²/2.
    Source: arXiv 2304.10411, 2305.00660 sample the rows of one weighted matrix; the product form is derived in
    docs/theory/greedy_newton.md.
    """
    problem = objective.problem
    k, n, m, d1, d2 = problem.sizes
    drawn = min(k * n, samples)
    each = -(-samples // drawn)
    scores1 = leverage_scores(problem.A1.reshape(k * n, d1))
    scores2 = jax.vmap(leverage_scores)(problem.A2)
    masses, packed = _diagonal_and_low_rank(objective, X, scores2)
    weights = scores1 * masses.reshape(-1)
    total = jnp.sum(weights)
    key_rows, key_keys = jax.random.split(key)
    which = draw(weights, jax.random.uniform(key_rows, (drawn,), X.dtype))
    uniform = jax.random.uniform(key_keys, (drawn, each), X.dtype)

    def one(j, u):
        document, row = j // n, j % n
        diag, keys = _diagonal_of(problem, X, document, row)
        conditional = jnp.abs(diag) * scores2[document]
        i = draw(conditional, u)
        mass = jnp.sum(conditional)
        picked = jnp.sign(diag[i]) * mass / (each * scores2[document][i])
        M = tt.matmul((keys[i] * picked[:, None]).T, keys[i])
        return jnp.where(weights[j] > 0, total / (drawn * weights[j]), 0.0) * M

    batch = max(1, 2**18 // m)
    M = jax.lax.map(lambda args: one(*args), (which, uniform), batch_size=min(batch, drawn))
    rows, cols = tt.triangle(d2)
    lift = problem.A1.reshape(k * n, d1)[which]
    packed = packed + tt.lift_blocks(tt.khatri_rao_square(lift), M[:, rows, cols])
    return tt.unpack_hessian(packed, d1, d2) + problem.ridge * jnp.eye(d1 * d2, dtype=X.dtype)


def _diagonal_of(problem, X, document, row):
    """Diagonal of the row Hessian of one query, (m,), and its keys."""
    block = row_block(problem, document, row, 1)
    curvature: Curvature = row_terms(problem, block, tt.logits(block.query, X, block.keys)).hessian
    return curvature.diag[0], block.keys


def draw(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Indices with probability proportional to `weights`, by inversion of the cumulative sum."""
    ladder = jnp.cumsum(weights)
    index = jnp.searchsorted(ladder, uniform * ladder[-1], side="right")
    return jnp.minimum(index, weights.shape[0] - 1)


def spectral_error(estimate: jax.Array, exact: jax.Array) -> jax.Array:
    """Smallest ε with `(1−ε) H ≼ H̃ ≼ (1+ε) H` for a positive definite H: the largest |eigenvalue| of L⁻¹(H̃ −
    H)L⁻ᵀ."""
    factor = jnp.linalg.cholesky(exact)
    half = jax.scipy.linalg.solve_triangular(factor, estimate - exact, lower=True)
    whole = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh((whole + whole.T) / 2)))
