"""vec, Kronecker and Khatri–Rao algebra that lifts row quantities to the unknown matrix (docs/theory/closed_forms.md).

With `x = vec(X)` row-major, `vec(A1 X A2ᵀ) = (A1 ⊗ A2) x` and row j of the logits is `(A1[j] ⊗ A2) x`. A row function
with gradient γ_j and Hessian H_j in the logits therefore has

    gradient   A1ᵀ Γ A2,    Hessian   Σ_j (a_j a_jᵀ) ⊗ M_j,   M_j = A2ᵀ H_j A2,

and nothing of size n·m × d1·d2 is ever formed. Nothing here knows a loss.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift.precision import product
from attnreg.rows.curvature import Curvature


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b`, (…, n, m), for a (…, n, k) and b (…, k, m), in the precision of `attnreg.lift.precision`."""
    return product(jnp.matmul, a, b)


def einsum(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of a (…, n) and b (…, m), shaped (…, k), in the precision of `attnreg.lift.precision`."""
    return product(functools.partial(jnp.einsum, subscripts), a, b)


def logits(A1: jax.Array, X: jax.Array, A2: jax.Array) -> jax.Array:
    """`A1 X A2ᵀ` (n, m), in the cheaper of the two orders, for A1 (n, d1), X (d1, d2), A2 (m, d2)."""
    n, m = A1.shape[0], A2.shape[0]
    if n <= m:
        return matmul(matmul(A1, X), A2.T)
    return matmul(A1, matmul(X, A2.T))


def lift_gradient(A1: jax.Array, gamma: jax.Array, A2: jax.Array) -> jax.Array:
    """`A1ᵀ Γ A2` (d1, d2) for row gradients Γ = gamma (n, m), A1 (n, d1), A2 (m, d2)."""
    return matmul(A1.T, matmul(gamma, A2))


def lift_hvp(A1: jax.Array, curvature: Curvature, A2: jax.Array, V: jax.Array) -> jax.Array:
    """`Σ_j a_j (A2ᵀ H_j A2 Vᵀa_j)ᵀ`: the Hessian times V (d1, d2), for A1 (n, d1), A2 (m, d2), shaped like V.

    Cost: two logit products, O(n m (d1 + d2)).
    """
    return lift_gradient(A1, curvature.apply(logits(A1, V, A2)), A2)


def triangle(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column indices of the upper triangle of a (d, d) matrix, (d(d+1)/2,) each."""
    return np.triu_indices(d)


def khatri_rao_square(A: jax.Array) -> jax.Array:
    """Row-wise products `A[i, b] A[i, c]` for b ≤ c, (n, p) with p = d(d+1)/2, for A (n, d): triangles of a_i a_iᵀ."""
    rows, cols = triangle(A.shape[1])
    return A[:, rows] * A[:, cols]


# A row count below which A2ᵀ diag(w) A2 is formed row by row, and how many entries of a Khatri–Rao square may exist at
# once (2²¹ float64 entries are 16 MB, about what a core's share of cache and TLB reach serves well).
FEW_ROWS = 4
SQUARE_ENTRIES = 2**21


def over_keys(step: Callable[[Any, Any], Any], init: Any, m: int, block: int) -> Any:
    """`init + Σ step(start, fresh)` over blocks of keys; `fresh` (block,) is False on keys an earlier block has done.

    The last block is moved back to stay inside the array, so no operand is padded or copied. Arrays of any shape.

    Cost: ⌈m / block⌉ calls of `step`.
    """
    if block >= m:
        return jax.tree.map(jnp.add, init, step(0, np.ones(m, bool)))

    def body(i, total):
        start = jnp.minimum(i * block, m - block)
        fresh = start + jnp.arange(block) >= i * block
        return jax.tree.map(jnp.add, total, step(start, fresh))

    return jax.lax.fori_loop(0, -(-m // block), body, init)


def weighted_gram(A: jax.Array, weights: jax.Array) -> jax.Array:
    """`Aᵀ diag(weights) A` for A (m, d), blocked over keys so that no second copy of a large A exists."""
    m, d = A.shape
    block = max(1, SQUARE_ENTRIES // (4 * d))

    def step(start, fresh):
        size = fresh.shape[0]
        a = jax.lax.dynamic_slice_in_dim(A, start, size)
        w = jnp.where(fresh, jax.lax.dynamic_slice_in_dim(weights, start, size), jnp.zeros((), A.dtype))
        return matmul((a * w[:, None]).T, a)

    return over_keys(step, jnp.zeros((d, d), A.dtype), m, block)


def curvature_blocks(curvature: Curvature, A2: jax.Array) -> jax.Array:
    """All `M_j = A2ᵀ H_j A2` as packed upper triangles, (r, d2(d2+1)/2).

    The diagonal parts of all rows at once are one product of (r, m) with the Khatri–Rao square of A2, which is built
    for as many keys at a time as `SQUARE_ENTRIES` allows; for a few rows each `A2ᵀ diag(w) A2` is formed directly.
    Cost: r·m·d2² flops (tests/objectives/test_costs.py).
    """
    r, (m, d) = curvature.diag.shape[0], A2.shape
    rows, cols = triangle(d)
    if r <= FEW_ROWS:
        packed = jnp.stack([weighted_gram(A2, w)[rows, cols] for w in curvature.diag])
    else:

        def step(start, fresh):
            size = fresh.shape[0]
            square = khatri_rao_square(jax.lax.dynamic_slice_in_dim(A2, start, size))
            diag = jax.lax.dynamic_slice_in_dim(curvature.diag, start, size, axis=1)
            return matmul(jnp.where(fresh, diag, jnp.zeros((), diag.dtype)), square)

        packed = over_keys(step, jnp.zeros((r, rows.size), A2.dtype), m, max(1, SQUARE_ENTRIES // rows.size))
    low = curvature.low
    if low is None:
        return packed
    p, q, uu, uv = matmul(low.u, A2), matmul(low.v, A2), low.uu[:, None], low.uv[:, None]
    # u (uu·u + uv·v)ᵀ + uv·v uᵀ, entry by entry of the triangle.
    mixed = uu * p + uv * q
    return packed + p[:, rows] * mixed[:, cols] + (uv * q)[:, rows] * p[:, cols]


def lift_blocks(square1: jax.Array, blocks: jax.Array) -> jax.Array:
    """`Σ_j (a_j a_jᵀ) ⊗ M_j` with both factors packed, (p1, p2), for square1 (n, p1) and blocks (n, p2), p = d(d+1)/2.

    Cost: n·(d1 d2)²/2 flops.
    """
    return matmul(square1.T, blocks)


def unpack_hessian(packed: jax.Array, d1: int, d2: int) -> jax.Array:
    """The full (d1·d2, d1·d2) matrix, row-major vec order, from packed (p1, p2) as `lift_blocks` gives it."""
    i1, i2 = _unpack_index(d1), _unpack_index(d2)
    full = packed[i1][:, i2]
    return full.reshape(d1, d1, d2, d2).transpose(0, 2, 1, 3).reshape(d1 * d2, d1 * d2)


def _unpack_index(d: int) -> np.ndarray:
    """Where each entry of a d×d symmetric matrix stands in its packed upper triangle: (d·d,)."""
    index = np.zeros((d, d), np.int32)
    rows, cols = triangle(d)
    index[rows, cols] = index[cols, rows] = np.arange(rows.size)
    return index.ravel()


def unpack_blocks(packed: jax.Array, d: int) -> jax.Array:
    """Symmetric (r, d, d) matrices from packed upper triangles (r, p), p = d(d+1)/2."""
    return packed[:, _unpack_index(d)].reshape(-1, d, d)


def lift_diagonal(A1: jax.Array, curvature: Curvature, A2: jax.Array) -> jax.Array:
    """Diagonal of `Σ_j (a_j a_jᵀ) ⊗ M_j` as a (d1, d2) matrix, for A1 (n, d1), A2 (m, d2). Cost: O(n m d2)."""
    diagonal = matmul(curvature.diag, A2 * A2)
    if (low := curvature.low) is not None:
        p, q = matmul(low.u, A2), matmul(low.v, A2)
        diagonal = diagonal + p * (low.uu[:, None] * p + 2 * low.uv[:, None] * q)
    return matmul((A1 * A1).T, diagonal)


def block_traces(curvature: Curvature, A2: jax.Array) -> jax.Array:
    """`tr M_j` for every row, (r,), for A2 (m, d2)."""
    traces = matmul(curvature.diag, jnp.sum(A2 * A2, axis=1))
    low = curvature.low
    if low is None:
        return traces
    p, q = matmul(low.u, A2), matmul(low.v, A2)
    return traces + low.uu * jnp.sum(p * p, axis=1) + 2 * low.uv * jnp.sum(p * q, axis=1)


def weighted_block_sum(curvature: Curvature, A2: jax.Array, weights: jax.Array) -> jax.Array:
    """`Σ_j weights_j M_j` (d2, d2) without forming any M_j, for A2 (m, d2) and weights (r,).

    Cost: O(r m + m d2² + r d2²), or O(r m² + m d2²) where there are fewer keys than columns.
    """
    low, m = curvature.low, A2.shape[0]
    if low is not None and m <= A2.shape[1]:  # Σ_j weights_j H_j first, (m, m)
        cross = matmul((low.u * (weights * low.uv)[:, None]).T, low.v)
        H = matmul((low.u * (weights * low.uu)[:, None]).T, low.u) + cross + cross.T
        return matmul(A2.T, matmul(H + jnp.diag(matmul(weights, curvature.diag)), A2))
    total = weighted_gram(A2, matmul(weights, curvature.diag))
    if low is None:
        return total
    p, q = matmul(low.u, A2), matmul(low.v, A2)
    cross = matmul((p * (weights * low.uv)[:, None]).T, q)
    return total + matmul((p * (weights * low.uu)[:, None]).T, p) + cross + cross.T
