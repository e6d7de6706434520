"""The one matrix shape every row function's Hessian has: diagonal plus rank two.

`H = diag(diag) + uu · u uᵀ + uv · (u vᵀ + v uᵀ)`, one such matrix per row of logits. Row functions (`attnreg.rows`)
produce it, the tensor trick (`attnreg.lift.tensor_trick`) lifts it; neither knows the other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Curvature(NamedTuple):
    """Hessians of a batch of row functions, `diag(diag) + uu·uuᵀ + uv·(uvᵀ + vuᵀ)`.

    `diag`, `u`, `v` are (..., m); `uu`, `uv` are (...). `u = v = uu = uv = None` means purely diagonal.
    """

    diag: jax.Array
    u: jax.Array | None = None
    v: jax.Array | None = None
    uu: jax.Array | None = None
    uv: jax.Array | None = None

    @property
    def rank_two(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array] | None:
        """(u, v, uu, uv), or None when purely diagonal."""
        if self.u is None or self.v is None or self.uu is None or self.uv is None:
            return None
        return self.u, self.v, self.uu, self.uv

    def apply(self, t: jax.Array) -> jax.Array:
        """`H t` for each row; `t` is (..., m). Cost: about 9 flops per entry."""
        out = self.diag * t
        low = self.rank_two
        if low is None:
            return out
        u, v, uu, uv = low
        ut, vt = jnp.sum(u * t, axis=-1), jnp.sum(v * t, axis=-1)
        return out + u * (uu * ut + uv * vt)[..., None] + v * (uv * ut)[..., None]

    def dense(self) -> jax.Array:
        """The matrices themselves, (..., m, m): a reference for small sizes, never used in a hot path."""
        eye = jnp.eye(self.diag.shape[-1], dtype=self.diag.dtype)
        out = self.diag[..., None] * eye[(None,) * (self.diag.ndim - 1)]
        low = self.rank_two
        if low is None:
            return out
        u, v, uu, uv = low
        u_vT, u_uT = u[..., :, None] * v[..., None, :], u[..., :, None] * u[..., None, :]
        return out + uu[..., None, None] * u_uT + uv[..., None, None] * (u_vT + jnp.swapaxes(u_vT, -1, -2))


class RowTerms(NamedTuple):
    """What a row function says about a batch of rows of logits `s` (..., m).

    value: (...,) the loss of each row. gradient: (..., m) in the logits. hessian: exact, as a `Curvature`.
    gauss_newton: the part that is always positive semidefinite. Unused fields cost nothing under jit.
    """

    value: jax.Array
    gradient: jax.Array
    hessian: Curvature
    gauss_newton: Curvature
