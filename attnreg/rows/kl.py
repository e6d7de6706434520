"""The Kullback–Leibler row function `KL(b ‖ softmax(s))` in closed form."""

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RankTwo, RowTerms
from attnreg.rows.masking import hide


def kl(s: jax.Array, b: jax.Array, mask: jax.Array | None = None) -> RowTerms:
    """Value, gradient and curvature of `β KL(b/β ‖ f) = Σ_i b_i log(b_i / (β f_i))`, `f = softmax(s)`, `β = Σ b`.

    A row of targets that sums to 1 gives the divergence itself. Other sums β weigh the row: the loss stays at least 0,
    and is 0 exactly at `f = b/β`. Terms with `b_i = 0` are 0, and so is a row of zeros. Gradient `β f − b`, Hessian
    `β (diag f − f fᵀ)`. That is positive semidefinite everywhere, so the Gauss–Newton part is all of it.

    Args:
        s: (…, m) logits, float32 or float64.
        b: (…, m) targets, at least 0, of the dtype of s.
        mask: (…, m) True where a key may be attended; masked keys have f = b = 0 and do not count in β.

    Returns:
        `RowTerms` for every row.

    Precision: a small multiple of eps × natural scale (tests/rows/test_rows.py). The value near a perfect fit is as
    small as eps², because it is summed as terms that are each at least 0.
    Cost: one exp and two logarithms per entry for the value, about 4 flops more for the gradient.
    Source: derived in docs/theory/closed_forms.md, section 2.4.

    Example:
        >>> import jax.numpy as jnp
        >>> terms = kl(jnp.zeros(2), jnp.array([1.0, 0.0]))
        >>> bool(jnp.allclose(terms.value, jnp.log(2.0))), terms.gradient.tolist()
        (True, [-0.5, 0.5])
    """
    f, log_f = _softmax_and_log(s, mask)
    b = hide(b, mask, 0)
    beta = jnp.sum(b, axis=-1, keepdims=True)
    value = jnp.sum(_divergences(b, beta * f, _log_or_zero(beta) + log_f), axis=-1)
    weight = beta[..., 0]
    curvature = Curvature(beta * f, RankTwo(u=f, v=f, uu=-weight, uv=jnp.zeros_like(weight)))
    return RowTerms(value, beta * f - b, curvature, curvature)


def _softmax_and_log(s: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Softmax over the allowed keys and its logarithm, which does not underflow; both 0 elsewhere."""
    top = jnp.max(hide(s, mask, -jnp.inf), axis=-1, keepdims=True)
    shifted = hide(s - jnp.where(jnp.isneginf(top), jnp.zeros_like(top), top), mask, 0)
    e = hide(jnp.exp(shifted), mask, 0)
    total = jnp.sum(e, axis=-1, keepdims=True)
    total = jnp.where(total == 0, jnp.ones_like(total), total)
    return e / total, hide(shifted - jnp.log(total), mask, 0)


def _log_or_zero(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.where(x > 0, x, jnp.ones_like(x)))


def _divergences(b: jax.Array, x: jax.Array, log_x: jax.Array) -> jax.Array:
    """`b log(b/x) − b + x`, each at least 0; their sum is `Σ b log(b/x)` when b and x have the same sum.

    With `b = x (1 + t)` the term is `x [(1 + t) log(1 + t) − t]`, of size `x t²/2`: from log1p it keeps an error of
    eps·x·|t| for small t, where the difference of logarithms would leave eps·b.
    """
    near = jnp.abs(b - x) < 0.5 * x
    # Divided only where it is used: a quotient that overflows has a derivative of NaN, even unused.
    t = jnp.where(near, b - x, jnp.zeros_like(x)) / jnp.where(near, x, jnp.ones_like(x))
    small = x * ((1 + t) * jnp.log1p(t) - t)
    # A log f of −inf (logits further apart than the largest float) must not meet b = 0.
    large = jnp.where(b > 0, b * (_log_or_zero(b) - jnp.where(b > 0, log_x, jnp.zeros_like(b))), jnp.zeros_like(b))
    return jnp.maximum(jnp.where(near, small, large - b + x), 0)
