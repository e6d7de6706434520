"""An elementwise map of the logits before a row function: scale, and soft cap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.rows.curvature import Curvature, RowTerms


class Capped(NamedTuple):
    """Mapped logits φ(s), and φ' and φ'' at s: arrays of the shape (…, m) of s, floats; bend is None where φ'' = 0."""

    logits: jax.Array
    slope: jax.Array
    bend: jax.Array | None


def capped(s: jax.Array, scale: jax.Array | None, soft_cap: jax.Array | None) -> Capped:
    """`φ(s) = cap·tanh(scale·s / cap)`, or `scale·s` without a cap, for logits s (…, m) and scalars.

    >>> import jax.numpy as jnp
    >>> s = jnp.array([0.0, 1e9])
    >>> capped(s, None, jnp.asarray(30.0, s.dtype)).logits.tolist()
    [0.0, 30.0]
    """
    one = jnp.ones((), s.dtype) if scale is None else scale
    if soft_cap is None:
        return Capped(one * s, jnp.broadcast_to(one, s.shape), None)
    t = jnp.tanh(one * s / soft_cap)
    # 1 − tanh² = sech², which keeps its relative accuracy where tanh is near 1.
    slope = one / jnp.cosh(jnp.clip(one * s / soft_cap, -MOST, MOST)) ** 2
    return Capped(soft_cap * t, slope, -2 * t * slope * one / soft_cap)


# cosh(44)² stays below the largest float32, and sech² there is far below eps.
MOST = 44.0


def through(terms: RowTerms, of: Capped) -> RowTerms:
    """`RowTerms` in s from those in φ(s), shaped like them, by the chain rule.

    Gradient `φ'∘γ`, Hessian `φ' H φ' + diag(φ''∘γ)`; the Gauss–Newton part is its first term, with that of the terms in
    the place of H.
    """

    def squeezed(curvature: Curvature) -> Curvature:
        low = curvature.low
        if low is not None:
            low = low._replace(u=low.u * of.slope, v=low.v * of.slope)
        return Curvature(curvature.diag * of.slope**2, low)

    hessian = squeezed(terms.hessian)
    if of.bend is not None:
        hessian = hessian._replace(diag=hessian.diag + of.bend * terms.gradient)
    return RowTerms(terms.value, terms.gradient * of.slope, hessian, squeezed(terms.gauss_newton))
