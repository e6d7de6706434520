"""The lemma that bounds the spectrum of a row Hessian.

The row Hessian is `2M` with `M = Σ_{i<j} L_ij (e_i − e_j)(e_i − e_j)ᵀ`, a Laplacian with weights of both signs
(`edge_weights`). If v is the eigenvector of an extreme eigenvalue λ, i and j the places of its largest and smallest
entry and `θ_l = (v_i − v_l)/(v_i − v_j) ∈ [0, 1]`, the difference of lines i and j of `Mv = λv` reads
`λ = 2L_ij + Σ_l [θ_l L_il + (1 − θ_l) L_jl]`, hence `edge_bounds`.
"""

import jax
import jax.numpy as jnp


def edge_weights(f: jax.Array, k: int) -> jax.Array:
    """`L_ij = f_i f_j (2(f_k + f_i + f_j) − 3‖f‖²)`, and `L_ik = f_i f_k (4f_k + 2f_i − 3‖f‖² − 1)`; zero diagonal."""
    label = jnp.zeros_like(f).at[k].set(1.0)
    touches = label[:, None] + label[None, :]
    pair = f[:, None] + f[None, :]
    weights = f[:, None] * f[None, :] * (2.0 * (f[k] + pair) - 3.0 * jnp.sum(f * f) - touches)
    return weights - jnp.diag(jnp.diag(weights))


def edge_bounds(L: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lower, upper) limits of the nonzero spectrum of the Laplacian of L, any signs, from the lemma above.

    Largest `2L_ij + Σ_l max(L_il, L_jl)`, smallest `2L_ij + Σ_l min(L_il, L_jl)`, over pairs i ≠ j.
    """
    n = L.shape[0]
    other = 1.0 - jnp.eye(n, dtype=L.dtype)
    keep = other[:, None, :] * other[None, :, :]  # l differs from i and j
    above = 2.0 * L + jnp.sum(keep * jnp.maximum(L[:, None, :], L[None, :, :]), axis=2)
    below = 2.0 * L + jnp.sum(keep * jnp.minimum(L[:, None, :], L[None, :, :]), axis=2)
    eye = jnp.eye(n, dtype=bool)
    return jnp.min(jnp.where(eye, jnp.inf, below)), jnp.max(jnp.where(eye, -jnp.inf, above))
