"""The rescaled row functions `‖g(s) − ⟨g(s), 1⟩ b‖²` for g = exp, cosh, sinh, in closed form and free of NaN.

A factor `exp(M)`, M = max|s| (max s for exp), is taken out of g; the loss and its derivatives carry `exp(2M)`. When
that factor does not fit the dtype, the value is reported as `inf` and the derivatives are those of a saturated
factor: finite, with the right direction and too small a size. A solver sees the `inf` and says so.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RankTwo, RowTerms
from attnreg.rows.masking import hide


class Scaled(NamedTuple):
    """`g`, `g'` and `g''` at s, each divided by `exp(top)`; top is (…, 1)."""

    g: jax.Array
    g1: jax.Array
    g2: jax.Array
    top: jax.Array


def _top(s: jax.Array, mask: jax.Array | None) -> jax.Array:
    top = jnp.max(hide(s, mask, -jnp.inf), axis=-1, keepdims=True)
    return jnp.where(jnp.isneginf(top), jnp.zeros_like(top), top)


def scaled_exp(s: jax.Array, mask: jax.Array | None) -> Scaled:
    """`exp` and its derivatives over `exp(max s)`."""
    top = _top(s, mask)
    e = jnp.exp(hide(s - top, mask, -jnp.inf))
    return Scaled(e, e, e, top)


def _scaled_hyperbolic(s: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    size = jnp.abs(s)
    top = _top(size, mask)
    half = jnp.exp(hide(size - top, mask, -jnp.inf)) / 2
    cosh = half * (1 + jnp.exp(-2 * size))
    sinh = -jnp.sign(s) * half * jnp.expm1(-2 * size)
    return cosh, sinh, top


def scaled_cosh(s: jax.Array, mask: jax.Array | None) -> Scaled:
    """`cosh` and its derivatives over `exp(max|s|)`."""
    cosh, sinh, top = _scaled_hyperbolic(s, mask)
    return Scaled(cosh, sinh, cosh, top)


def scaled_sinh(s: jax.Array, mask: jax.Array | None) -> Scaled:
    """`sinh` and its derivatives over `exp(max|s|)`."""
    cosh, sinh, top = _scaled_hyperbolic(s, mask)
    return Scaled(sinh, cosh, sinh, top)


def _rescaled(
    activation: Callable[[jax.Array, jax.Array | None], Scaled],
    s: jax.Array,
    b: jax.Array,
    mask: jax.Array | None,
) -> RowTerms:
    """The shared closed form; see `rescaled` for the formulas."""
    g, g1, g2, top = activation(s, mask)
    b = hide(b, mask, 0)
    r = g - jnp.sum(g, axis=-1, keepdims=True) * b
    z = r - jnp.sum(r * b, axis=-1, keepdims=True)
    # A quarter of the exponent range is left for the products and sums that follow.
    limit = jnp.log(jnp.asarray(jnp.finfo(s.dtype).max, s.dtype)) * 0.75
    scale = jnp.exp(jnp.minimum(2 * top, limit))
    inf = jnp.asarray(jnp.inf, s.dtype)
    r_r = jnp.sum(r * r, axis=-1)
    value = jnp.where((2 * top[..., 0] > limit) & (r_r > 0), inf, r_r * scale[..., 0])
    norm2 = jnp.sum(b * b, axis=-1)
    # The rank-two part carries the scale in its coefficients.
    uu, uv = 2 * norm2 * scale[..., 0], -2 * scale[..., 0]

    def curvature(diag):
        return Curvature(2 * scale * diag, RankTwo(u=g1, v=g1 * b, uu=uu, uv=uv))

    return RowTerms(value, 2 * scale * (g1 * z), curvature(g1 * g1 + g2 * z), curvature(g1 * g1))


def rescaled(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖u − αb‖²`, `u = exp(s)`, `α = ⟨u, 1⟩`.

    With `r = u − αb`, `ρ = ⟨r, b⟩`, `z = r − ρ1`: gradient `2 u∘z`, Hessian
    `2[diag(u∘(z + u)) − (u∘b)uᵀ − u(u∘b)ᵀ + ‖b‖² u uᵀ]`, Gauss–Newton part the same without z. For g = cosh, sinh
    (`cosh_rescaled`, `sinh_rescaled`) u becomes g' in the curvature and the diagonal `g'² + g''∘z`.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, any real numbers, of the dtype of s.
        mask: (…, m) True where a key may be attended; masked keys have u = b = 0.

    Returns:
        `RowTerms`; `value = inf` where `exp(2 max s)` does not fit three quarters of the dtype's exponent range.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py); never NaN for finite input.
    Cost: one exp and about 15 flops per entry.
    Source: derived in docs/theory/closed_forms.md; the problem is that of arXiv 2305.00660.
    """
    return _rescaled(scaled_exp, s, b, mask)


def cosh_rescaled(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖g(s) − ⟨g(s), 1⟩ b‖²` with `g = cosh`; formulas in `rescaled`.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, any real numbers, of the dtype of s.
        mask: (…, m) True where a key may be attended; masked keys have g = b = 0.

    Returns:
        `RowTerms`; `value = inf` where `exp(2 max |s|)` does not fit three quarters of the dtype's exponent range.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py); never NaN for finite input.
    Cost: two exponentials and about 20 flops per entry.
    Source: derived in docs/theory/closed_forms.md, section 2.3; the problem is that of arXiv 2305.00660.
    """
    return _rescaled(scaled_cosh, s, b, mask)


def sinh_rescaled(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `‖g(s) − ⟨g(s), 1⟩ b‖²` with `g = sinh`; formulas in `rescaled`.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, any real numbers, of the dtype of s.
        mask: (…, m) True where a key may be attended; masked keys have g = b = 0.

    Returns:
        `RowTerms`; `value = inf` where `exp(2 max |s|)` does not fit three quarters of the dtype's exponent range.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py); never NaN for finite input.
    Cost: two exponentials and about 20 flops per entry.
    Source: derived in docs/theory/closed_forms.md, section 2.3; the problem is that of arXiv 2305.00660.
    """
    return _rescaled(scaled_sinh, s, b, mask)
