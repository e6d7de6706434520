"""The row function `‖C(s − b)‖²`, C taking the mean off a row: a distance of logits that no constant can change."""

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RankTwo, RowTerms
from attnreg.rows.masking import hide


def centred(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖C(s − b)‖²` over the allowed keys, for logits s and targets b (…, m).

    Gradient `2C(s − b)`, Hessian `2C = 2(I − 11ᵀ/m)`, Gauss–Newton part the same. With b the logarithm of an attention
    map it vanishes exactly where the map is softmax(s).

    >>> import jax.numpy as jnp
    >>> centred(jnp.array([1.0, 3.0]), jnp.array([7.0, 7.0])).gradient.tolist()
    [-2.0, 2.0]
    """
    allowed = hide(jnp.ones_like(s), mask, 0)
    count = jnp.maximum(jnp.sum(allowed, axis=-1), 1)
    c = hide(s - b, mask, 0)
    c = hide(c - jnp.sum(c, axis=-1, keepdims=True) / count[..., None], mask, 0)
    curvature = Curvature(2 * allowed, RankTwo(allowed, allowed, -2 / count, jnp.zeros_like(count)))
    return RowTerms(jnp.sum(c * c, axis=-1), 2 * c, curvature, curvature)
