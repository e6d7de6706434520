"""The linear row function `‖s − b‖²`, and the papers' regularizer `½‖w∘s‖²` on the logits."""

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RowTerms
from attnreg.rows.masking import hide


def linear(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖s − b‖²` over the allowed keys.

    Gradient `2(s − b)`, Hessian `2I`, Gauss–Newton part the same.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, any real numbers, of the dtype of s.
        mask: (…, m) True where a key may be attended; None allows all.

    Returns:
        `RowTerms` for every row.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py).
    Cost: about 4 flops per entry.
    Source: docs/theory/closed_forms.md, section 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.array([1.0, 2.0]), jnp.zeros(2)).gradient.tolist()
        [2.0, 4.0]
    """
    c = hide(s - b, mask, 0)
    curvature = Curvature(hide(jnp.full_like(s, 2), mask, 0))
    return RowTerms(jnp.sum(c * c, axis=-1), 2 * c, curvature, curvature)


def logit_regularizer(s: jax.Array, w: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `½‖w∘s‖²` over the allowed keys.

    Gradient `w²∘s`, Hessian `diag(w²)`, Gauss–Newton part the same.

    Args:
        s: (…, m) logits, float32 or float64.
        w: weights of the dtype of s, of any shape that broadcasts to (…, m).
        mask: (…, m) True where a key may be attended; None allows all.

    Returns:
        `RowTerms` for every row.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py).
    Cost: about 5 flops per entry.
    Source: arXiv 2304.10411; docs/theory/closed_forms.md, section 2.1.

    Example:
        >>> import jax.numpy as jnp
        >>> logit_regularizer(jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0])).gradient.tolist()
        [9.0, 0.0]
    """
    w2 = hide(jnp.broadcast_to(w * w, s.shape), mask, 0)
    curvature = Curvature(w2)
    return RowTerms(jnp.sum(w2 * s * s, axis=-1) / 2, w2 * s, curvature, curvature)
