"""Limited-memory BFGS corrections of a fixed inverse Hessian: the two-loop recursion around any linear solve."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pairs(NamedTuple):
    """The last steps S (memory, p) and gradient changes Y, oldest first, and 1/⟨s, y⟩; empty slots are all zero."""

    S: jax.Array
    Y: jax.Array
    rho: jax.Array


def no_pairs(memory: int, like: jax.Array) -> Pairs:
    """An empty memory for vectors like `like` (p,).

    >>> import jax.numpy as jnp
    >>> no_pairs(3, jnp.zeros(2)).S.shape
    (3, 2)
    """
    empty = jnp.zeros((memory, like.size), like.dtype)
    return Pairs(empty, empty, empty[:, 0])


def push(pairs: Pairs, s: jax.Array, y: jax.Array, *, least: float = 1e-8) -> Pairs:
    """The memory with (s, y) for the oldest pair; as it was where the cosine of s and y is not above `least`."""
    sy = jnp.dot(s, y)
    good = sy > least * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    rho = 1 / jnp.where(good, sy, jnp.ones_like(sy))
    newer = Pairs(
        jnp.concatenate([pairs.S[1:], s[None]]),
        jnp.concatenate([pairs.Y[1:], y[None]]),
        jnp.concatenate([pairs.rho[1:], rho[None]]),
    )
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), newer, pairs)


def corrected_solve(
    pairs: Pairs, solve: Callable[[jax.Array], jax.Array], g: jax.Array, *, unroll: bool = True
) -> jax.Array:
    """`H⁻¹ g` for the BFGS update by `pairs` of the matrix whose inverse `solve` applies.

    With no pairs it is `solve(g)`; with a pair, `H s = y` exactly. Small problems spend their time in the loop over the
    pairs, so it is unrolled; `unroll=False` compiles faster.

    Cost: one solve and 4·memory·p multiplications.
    """

    def down(q, pair):
        s, y, rho = pair
        a = rho * jnp.dot(s, q)
        return q - a * y, a

    def up(q, pair):
        s, y, rho, a = pair
        return q + (a - rho * jnp.dot(y, q)) * s, None

    q, a = jax.lax.scan(down, g, tuple(pairs), reverse=True, unroll=unroll)
    return jax.lax.scan(up, solve(q), (*pairs, a), unroll=unroll)[0]
