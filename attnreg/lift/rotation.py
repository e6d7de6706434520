"""The logits of a rotary head as a linear map of a stacked unknown, one complex matrix a frequency.

With `q = Q₁ + iQ₂` and `k = K₁ + iK₂` the complex columns of frequency f, and α, β the angles of a query and a key,

    ⟨R_i Qᵀa_i, R_j Kᵀa_j⟩ = Σ_f Re[ e^{i(α_f − β_f)} a_iᵀ Z_f a_j ] + a_iᵀ Z_0 a_j,     Z_f = q kᴴ = U_f + i W_f,

so that the logits are linear in the real matrices U_f, W_f, and Z_0 of the columns that stay. Stacked as Z (c, d1, d2):
first all U_f, then all W_f, and last, if there is one, Z_0. Nothing here knows a loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import einsum, matmul
from attnreg.problems.rotary import Rotation


class Angles(NamedTuple):
    """Cosines and sines of some queries and some keys of one document.

    Args:
        cos_q, sin_q: (n, p) floats, of the queries. cos_k, sin_k: (m, p) floats, of the keys.
    """

    cos_q: jax.Array
    sin_q: jax.Array
    cos_k: jax.Array
    sin_k: jax.Array


def angles_of(rotation: Rotation, document: jax.Array, start: jax.Array, rows: int) -> Angles:
    """The turns of `rows` queries from `start`, (rows, p), and of all keys (m, p), of a document: scalars."""

    def take(table):
        return jax.lax.dynamic_index_in_dim(table, jnp.minimum(document, table.shape[0] - 1), keepdims=False)

    def rows_of(table):
        return jax.lax.dynamic_slice_in_dim(take(table), start, rows)

    return Angles(rows_of(rotation.cos_q), rows_of(rotation.sin_q), take(rotation.cos_k), take(rotation.sin_k))


def components(rotation: Rotation, rest: bool) -> int:
    """How many real matrices the stacked unknown has, c."""
    return rotation.width + int(rest)


def stacked_logits(angles: Angles, A1: jax.Array, Z: jax.Array, A2: jax.Array) -> jax.Array:
    """Logits (n, m) of Z (c, d1, d2) for A1 (n, d1), A2 (m, d2).

    Cost: `2·n·d2·(d1 + 2m)` flops a component.
    """
    p = angles.cos_q.shape[1]
    U, W = (einsum("nd,fde->nfe", A1, part) for part in (Z[:p], Z[p : 2 * p]))
    cos, sin = angles.cos_q[:, :, None], angles.sin_q[:, :, None]
    real, imaginary = _keys(angles, A2)
    s = _product(cos * U - sin * W, real) + _product(sin * U + cos * W, imaginary)
    return s if Z.shape[0] == 2 * p else s + matmul(matmul(A1, Z[2 * p]), A2.T)


def stacked_lift(angles: Angles, A1: jax.Array, gamma: jax.Array, A2: jax.Array, *, rest: bool) -> jax.Array:
    """The transpose of `stacked_logits`: (c, d1, d2) from row gradients gamma (n, m), for A1 (n, d1), A2 (m, d2)."""
    n, (p, d2) = A1.shape[0], (angles.cos_q.shape[1], A2.shape[1])
    real, imaginary = (matmul(gamma, side.reshape(-1, p * d2)).reshape(n, p, d2) for side in _keys(angles, A2))
    cos, sin = angles.cos_q[:, :, None], angles.sin_q[:, :, None]
    parts = [cos * real + sin * imaginary, cos * imaginary - sin * real]
    out = [einsum("nd,nfe->fde", A1, part) for part in parts]
    return jnp.concatenate([*out, matmul(A1.T, matmul(gamma, A2))[None]] if rest else out)


def _keys(angles: Angles, A2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines times the keys, (m, p, d2)."""
    return angles.cos_k[:, :, None] * A2[:, None, :], angles.sin_k[:, :, None] * A2[:, None, :]


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return matmul(left.reshape(left.shape[0], -1), right.reshape(right.shape[0], -1).T)


def stacked_of(rotation: Rotation, Q: jax.Array, K: jax.Array, *, rest: bool) -> jax.Array:
    """The stacked unknown (c, d1, d2) of factors Q (d1, r) and K (d2, r)."""
    (q1, q2, q0), (k1, k2, k0) = rotation.split(Q), rotation.split(K)
    U = einsum("df,ef->fde", q1, k1) + einsum("df,ef->fde", q2, k2)
    W = einsum("df,ef->fde", q2, k1) - einsum("df,ef->fde", q1, k2)
    return jnp.concatenate([U, W, matmul(q0, k0.T)[None]] if rest else [U, W])


def nearest_factors(rotation: Rotation, Z: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """Factors Q (d1, r) and K (d2, r) of the best complex matrix of rank one for each frequency of Z (c, d1, d2).

    Where Z has a rest, columns that stay get its best part of rank r − w.

    Cost: a singular value decomposition for each frequency, O(d1 d2 min(d1, d2)).
    """
    p, w = rotation.width // 2, rotation.width
    left, sizes, right = jnp.linalg.svd(jax.lax.complex(Z[:p], Z[p:w]), full_matrices=False)
    root = jnp.sqrt(sizes[:, :1]).astype(left.dtype)
    q, k = (left[:, :, 0] * root).T, (jnp.conj(right[:, 0, :]) * root).T
    rest1, rest2 = (jnp.zeros((d, rank - w), Z.dtype) for d in Z.shape[1:])
    if rank > w and Z.shape[0] > w:
        left, sizes, right = jnp.linalg.svd(Z[w], full_matrices=False)
        root, few = jnp.sqrt(sizes[: rank - w])[None, :], min(rank - w, sizes.shape[0])
        rest1, rest2 = rest1.at[:, :few].set(left[:, :few] * root), rest2.at[:, :few].set(right[:few].T * root)
    return rotation.joined(q.real, q.imag, rest1), rotation.joined(k.real, k.imag, rest2)
