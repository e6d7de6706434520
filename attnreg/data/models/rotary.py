"""Rotary positions: a head's queries and keys turned, pair of columns by pair, by an angle linear in the position."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array


def frequencies(base: float, width: int) -> tuple[float, ...]:
    """The angles `base**(-2i/width)` that one position adds to pair i of `width` columns.

    >>> frequencies(100.0, 4)
    (1.0, 0.1)
    """
    return tuple(base ** (-2 * i / width) for i in range(width // 2))


def slowed(angles: Sequence[float], *, factor: float, low: float, high: float, context: float) -> tuple[float, ...]:
    """Frequencies of Llama 3.1: those with fewer than `low` turns in `context` tokens are divided by `factor`.

    Those with more than `high` turns are kept, and in between the two are mixed, linearly in the number of turns.

    >>> slowed((1.0, 1e-6), factor=8.0, low=1.0, high=4.0, context=8192)
    (1.0, 1.25e-07)
    """

    def slow(angle: float) -> float:
        turns = context * angle / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return kept * angle + (1 - kept) * angle / factor

    return tuple(map(slow, angles))


def rotate(x: Array, angles: Sequence[float], layout: str = "half") -> Array:
    """Rows x (…, n, w) turned by their position: row p, pair i by the angle `p * angles[i]`, shaped like x.

    Layout "half" pairs column i with column i + len(angles), "interleaved" 2i with 2i + 1. Columns after the first
    2·len(angles) are left alone.

    Precision: cosines and sines are made in float64 on the host and rounded once, so that a far position loses nothing.

    >>> rotate(jnp.array([[1.0, 0.0], [1.0, 0.0]]), (math.pi / 2,)).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not angles:
        return x
    n, turned = x.shape[-2], 2 * len(angles)
    turn = np.arange(n)[:, None] * np.asarray(angles, np.float64)[None, :]
    lead = (1,) * (x.ndim - 2)
    cos, sin = (jnp.asarray(f(turn).reshape(*lead, *turn.shape), x.dtype) for f in (np.cos, np.sin))
    if layout == "half":
        one, two = x[..., : turned // 2], x[..., turned // 2 : turned]
    else:
        one, two = x[..., 0:turned:2], x[..., 1:turned:2]
    pair = (one * cos - two * sin, two * cos + one * sin)
    if layout == "half":
        done = jnp.concatenate(pair, axis=-1)
    else:
        done = jnp.stack(pair, axis=-1).reshape(*x.shape[:-1], turned)
    return done if turned == x.shape[-1] else jnp.concatenate([done, x[..., turned:]], axis=-1)
