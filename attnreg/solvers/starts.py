"""Starting points: batches of random unknowns shaped like an objective's."""

from typing import Any

import jax
import jax.numpy as jnp


def normal_starts(key: jax.Array, like: Any, count: int, *, scale: float = 1.0) -> Any:
    """`count` pytrees shaped like `like` with independent N(0, scale²) entries, stacked along a leading axis.

    Args:
        key: PRNG key. like: a pytree of arrays, for example `objective.zeros()`. count: how many. scale: standard
        deviation.

    >>> import jax, jax.numpy as jnp
    >>> normal_starts(jax.random.key(0), jnp.zeros((2, 3)), 4).shape
    (4, 2, 3)
    """
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [
        jnp.asarray(scale, leaf.dtype) * jax.random.normal(k, (count, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, draws)


def take(batch: Any, index: Any) -> Any:
    """Members `index` (an integer or an integer array) of a stacked batch."""
    return jax.tree.map(lambda x: x[index], batch)
