"""Gradient ascent from many starts at once: the one search behind every measured supremum of the bounds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

FIRST, LONGER, SHORTER = 0.3, 1.4, 0.35  # first length of an adaptive step, and its change when kept and refused


class Climbed(NamedTuple):
    """What an ascent found from each of s starts: where it ended, and three arrays (s,).

    Attributes:
        end: the last points, shaped like the starts.
        first: values at the starts (s,).
        best: the largest value on the way (s,).
        kept: how many steps were taken (s,).
    """

    end: Any
    first: jax.Array
    best: jax.Array
    kept: jax.Array


def ascend(
    value: Callable[..., jax.Array],
    starts: Any,
    *along: jax.Array,
    project: Callable[[Any], Any],
    steps: int = 0,
    lengths: jax.Array | None = None,
) -> Climbed:
    """Ascent of `value` along its normalized gradient, from all starts at once; what it found.

    Args:
        value: `value(point, *along)` of one start, a scalar.
        starts: pytree of arrays (s, …), one entry a start.
        along: further arrays (s, …) that `value` reads and the ascent leaves alone.
        project: maps the moved points of all starts, shaped like `starts`, back to where they may be.
        steps: number of adaptive steps: one that does not raise the value is taken back, and the next is shorter.
        lengths: (steps,) lengths of steps that are all taken; instead of `steps`.

    Cost: one value and gradient a step and start; memory for two copies of the starts.
    """
    slope = jax.vmap(jax.value_and_grad(value))
    adaptive = lengths is None

    def step(state: Any, scheduled: Any) -> tuple[Any, None]:
        here, now, gradient, length, best, kept = state
        length = length if adaptive else scheduled
        move = length / (jnp.sqrt(sum(jnp.sum(_flat(g) ** 2, axis=1) for g in jax.tree.leaves(gradient))) + 1e-30)
        there = project(jax.tree.map(lambda z, g: z + _column(move, g) * g, here, gradient))
        new, slopes = slope(there, *along)
        better = (new > now) & jnp.isfinite(new)
        taken = better if adaptive else jnp.ones_like(better)
        here, gradient = (
            jax.tree.map(lambda a, b: jnp.where(_column(taken, a), a, b), after, before)
            for after, before in ((there, here), (slopes, gradient))
        )
        length = jnp.where(better, LONGER * length, SHORTER * length) if adaptive else length
        now = jnp.where(taken, new, now)
        return (here, now, gradient, length, jnp.maximum(best, now), kept + taken.astype(jnp.int32)), None

    first, gradient = slope(starts, *along)
    length = jnp.full_like(first, FIRST) if adaptive else lengths[0]
    state = (starts, first, gradient, length, first, jnp.zeros(first.shape, jnp.int32))
    (end, _, _, _, best, kept), _ = jax.lax.scan(step, state, lengths, length=steps if adaptive else None)
    return Climbed(end, first, best, kept)


def _flat(z: jax.Array) -> jax.Array:
    return z.reshape(z.shape[0], -1)


def _column(v: jax.Array, like: jax.Array) -> jax.Array:
    """v (s,) shaped to multiply or select the entries of `like` (s, …)."""
    return v.reshape(v.shape[0], *(1 for _ in like.shape[1:]))
