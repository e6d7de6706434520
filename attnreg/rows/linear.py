"""The linear row function `‖s − b‖²`, and the papers' regularizer `½‖w∘s‖²` on the logits."""

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RowTerms
from attnreg.rows.masking import hide


def linear(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value `‖s − b‖²`, gradient `2(s − b)` and Hessian `2I` over the allowed keys; `s`, `b` are (…, m)."""
    c = hide(s - b, mask, 0)
    curvature = Curvature(hide(jnp.full_like(s, 2), mask, 0))
    return RowTerms(jnp.sum(c * c, axis=-1), 2 * c, curvature, curvature)


def logit_regularizer(s: jax.Array, w: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value `½‖w∘s‖²`, gradient `w²∘s`, Hessian `diag(w²)`; `w` broadcasts against `s` (…, m)."""
    w2 = hide(jnp.broadcast_to(w * w, s.shape), mask, 0)
    curvature = Curvature(w2)
    return RowTerms(jnp.sum(w2 * s * s, axis=-1) / 2, w2 * s, curvature, curvature)
