"""The normalized row function `‖softmax(s) − b‖²` in closed form."""

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RankTwo, RowTerms
from attnreg.rows.masking import hide


def softmax(s: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Softmax over the allowed keys of each row; a row with no allowed key is all zero, not NaN.

    Args:
        s: (…, m) logits, float32 or float64, of any size.
        mask: (…, m) True where a key may be attended; None allows all.

    Returns:
        (…, m), of the dtype of s; masked keys have 0.

    Precision: a few eps × (1 + the largest |s|) relative, entry by entry (tests/rows/test_rows.py).
    Cost: one exp and 4 flops per entry.
    Source: docs/theory/closed_forms.md, section 6.

    Example:
        >>> import jax.numpy as jnp
        >>> softmax(jnp.array([1e308, 0.0]), jnp.array([True, False])).tolist()
        [1.0, 0.0]
    """
    top = jnp.max(hide(s, mask, -jnp.inf), axis=-1, keepdims=True)
    top = jnp.where(jnp.isneginf(top), jnp.zeros_like(top), top)
    e = jnp.exp(hide(s - top, mask, -jnp.inf))
    total = jnp.sum(e, axis=-1, keepdims=True)
    return e * (1 / jnp.where(total == 0, jnp.ones_like(total), total))


def normalized(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖f − b‖²`, `f = softmax(s)`.

    With `c = f − b`, `μ = ⟨f, c⟩`, `p = f∘(c − μ)` and `w = f∘f + p`: gradient `2p`, Hessian
    `2[diag(w) − w fᵀ − f wᵀ + ‖f‖² f fᵀ]`, Gauss–Newton part the same with `w = f∘f`.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, any real numbers, of the dtype of s.
        mask: (…, m) True where a key may be attended; masked keys have f = b = 0.

    Returns:
        `RowTerms` for every row.

    Precision: a small multiple of eps × the natural scale (tests/rows/test_rows.py against autodiff and mpmath).
    Cost: one exp and about 10 flops per entry for value and gradient (tests/objectives/test_costs.py).
    Source: derived in docs/theory/closed_forms.md.
    """
    f = softmax(s, mask)
    b = hide(b, mask, 0)
    c = f - b
    mu = jnp.sum(f * c, axis=-1, keepdims=True)
    p = f * (c - mu)
    ff = f * f
    norm2 = jnp.sum(ff, axis=-1)
    minus_two = jnp.full_like(norm2, -2)

    def curvature(w):
        return Curvature(2 * w, RankTwo(u=f, v=w, uu=2 * norm2, uv=minus_two))

    return RowTerms(jnp.sum(c * c, axis=-1), 2 * p, curvature(ff + p), curvature(ff))
