"""The one matrix shape every row function's Hessian has: diagonal plus rank two.

`H = diag(diag) + uu · u uᵀ + uv · (u vᵀ + v uᵀ)`, one such matrix per row of logits. Row functions (`attnreg.rows`)
produce it, the tensor trick (`attnreg.lift.tensor_trick`) lifts it; neither knows the other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class RankTwo(NamedTuple):
    """The matrices `uu · u uᵀ + uv · (u vᵀ + v uᵀ)`, one per row: all four parts, or none (`Curvature.low` is None).

    Args:
        u, v: (…, m) vectors, floating point. A rank-one matrix `c · u uᵀ` is `RankTwo(u, u, c, 0)`.
        uu, uv: (…,) coefficients.

    Example:
        >>> import jax.numpy as jnp
        >>> u = jnp.array([1.0, -1.0])
        >>> low = RankTwo(u, u, jnp.asarray(3.0), jnp.asarray(0.0))
        >>> Curvature(jnp.zeros(2), low).dense().tolist()
        [[3.0, -3.0], [-3.0, 3.0]]
    """

    u: jax.Array
    v: jax.Array
    uu: jax.Array
    uv: jax.Array


class Curvature(NamedTuple):
    """Hessians of a batch of row functions, `diag(diag) + uu·u uᵀ + uv·(u vᵀ + v uᵀ)`.

    Args:
        diag: (…, m), floating point.
        low: the rest, a `RankTwo`; None means purely diagonal.

    Example:
        >>> import jax.numpy as jnp
        >>> Curvature(jnp.array([1.0, 2.0])).apply(jnp.ones(2)).tolist()
        [1.0, 2.0]
    """

    diag: jax.Array
    low: RankTwo | None = None

    def apply(self, t: jax.Array) -> jax.Array:
        """`H t` for each row, (…, m), from t (…, m). Cost: about 9 flops per entry."""
        out, low = self.diag * t, self.low
        if low is None:
            return out
        ut, vt = jnp.sum(low.u * t, axis=-1), jnp.sum(low.v * t, axis=-1)
        return out + low.u * (low.uu * ut + low.uv * vt)[..., None] + low.v * (low.uv * ut)[..., None]

    def dense(self) -> jax.Array:
        """The matrices themselves, (…, m, m): a reference for small sizes, never used in a hot path."""
        eye = jnp.eye(self.diag.shape[-1], dtype=self.diag.dtype)
        out, low = self.diag[..., None] * eye[(None,) * (self.diag.ndim - 1)], self.low
        if low is None:
            return out
        u_vT, u_uT = low.u[..., :, None] * low.v[..., None, :], low.u[..., :, None] * low.u[..., None, :]
        return out + low.uu[..., None, None] * u_uT + low.uv[..., None, None] * (u_vT + jnp.swapaxes(u_vT, -1, -2))


class RowTerms(NamedTuple):
    """What a row function says about a batch of rows of logits s (…, m).

    Args:
        value: (…,) the loss of each row, in the dtype of s like all others.
        gradient: (…, m) in the logits.
        hessian: the exact Hessian in the logits.
        gauss_newton: the part of it that is always positive semidefinite.

    Fields that are not used cost nothing under jit.
    """

    value: jax.Array
    gradient: jax.Array
    hessian: Curvature
    gauss_newton: Curvature
