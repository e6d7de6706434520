"""Limited-memory BFGS corrections of a fixed inverse Hessian, by the compact form, around any linear solve.

With steps S and gradient changes Y as rows, and R the upper triangle of `S Yᵀ`, the corrected inverse applied to g is

    p = R⁻¹ S g,    r = H₀⁻¹ (g − Yᵀ p),    r + Sᵀ R⁻ᵀ (D p − Y r),    D the diagonal of R,

what the two-loop recursion gives, in four products instead of two loops over the pairs.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# A corrected direction is worth no more than its least exact product.
matmul: Callable[..., jax.Array] = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Pairs(NamedTuple):
    """The last steps S (memory, p) and gradient changes Y (memory, p), in slots that are used in turn; empty: 0.

    inverse: (memory, memory) of R, whose order is that of age. sy: (memory,) the products ⟨s, y⟩. pushed: int32 scalar,
    how many pairs there have been. scale: ⟨s, y⟩/⟨y, y⟩ of the newest, the size of an inverse Hessian; 1 without pairs.
    """

    S: jax.Array
    Y: jax.Array
    inverse: jax.Array
    sy: jax.Array
    pushed: jax.Array
    scale: jax.Array


def no_pairs(memory: int, like: jax.Array) -> Pairs:
    """An empty memory for vectors like `like` (p,).

    >>> import jax.numpy as jnp
    >>> no_pairs(3, jnp.zeros(2)).S.shape
    (3, 2)
    """
    empty = jnp.zeros((memory, like.size), like.dtype)
    square, none = jnp.zeros((memory, memory), like.dtype), jnp.zeros(memory, like.dtype)
    return Pairs(empty, empty, square, none, jnp.int32(0), jnp.ones((), like.dtype))


def push(pairs: Pairs, s: jax.Array, y: jax.Array, *, least: float = 1e-8) -> Pairs:
    """The memory with (s, y) for the oldest pair; as it was where the cosine of s and y is not above `least`."""
    sy, yy, ss = jnp.dot(s, y), jnp.dot(y, y), jnp.dot(s, s)
    good = sy > least * jnp.sqrt(ss) * jnp.sqrt(yy)
    rho = 1 / jnp.where(good, sy, jnp.ones_like(sy))
    here = (jnp.arange(pairs.sy.size, dtype=jnp.int32) == pairs.pushed % pairs.sy.size) & good
    # The oldest pair is first in the triangle: without its row and column the inverse is that of the others.
    others = jnp.where(here[:, None] | here[None, :], jnp.zeros_like(rho), pairs.inverse)
    column = jnp.where(here, rho, -rho * matmul(others, matmul(pairs.S, y)))
    return Pairs(
        jnp.where(here[:, None], s[None], pairs.S),
        jnp.where(here[:, None], y[None], pairs.Y),
        jnp.where(here[None, :], column[:, None], others),
        jnp.where(here, sy, pairs.sy),
        pairs.pushed + good.astype(jnp.int32),
        jnp.where(good, sy / jnp.where(good, yy, jnp.ones_like(yy)), pairs.scale),
    )


def corrected_solve(pairs: Pairs, solve: Callable[[jax.Array], jax.Array], g: jax.Array) -> jax.Array:
    """`H⁻¹ g` for the BFGS update by `pairs` of the matrix whose inverse `solve` applies, shaped like g (p,).

    With no pairs it is `solve(g)`; with a pair, `H s = y` exactly.

    Cost: one solve and 4·memory·p multiplications.
    """
    p = matmul(pairs.inverse, matmul(pairs.S, g))
    r = solve(g - matmul(p, pairs.Y))
    return r + matmul(matmul(pairs.sy * p - matmul(pairs.Y, r), pairs.inverse), pairs.S)
