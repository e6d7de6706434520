"""Boolean masks on rows of logits: True where a key may be attended."""

import jax
import jax.numpy as jnp


def hide(x: jax.Array, mask: jax.Array | None, fill: float) -> jax.Array:
    """`x` where the mask allows, `fill` elsewhere; no mask costs nothing."""
    if mask is None:
        return x
    return jnp.where(mask, x, jnp.asarray(fill, x.dtype))
