"""Rotary positions: a head's queries and keys turned, pair of columns by pair, by an angle linear in the position."""

import math
from collections.abc import Sequence

import numpy as np
from jax import Array

from attnreg.problems.rotary import Rotary


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

    >>> import jax.numpy as jnp
    >>> rotate(jnp.array([[1.0, 0.0], [1.0, 0.0]]), (math.pi / 2,)).round(6).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if not angles:
        return x
    n = x.shape[-2]
    turns = Rotary(2 * len(angles), layout=layout, frequencies=np.asarray(angles))  # type: ignore[arg-type]
    return turns.at((), n, n, x.dtype).queries(x.reshape(-1, *x.shape[-2:])).reshape(x.shape)
