"""What the processes of one program must do together: decide alike, and read what lies on all of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def agree(decision: bool) -> bool:
    """Whether any process says yes: a collective, so that all act alike. What hangs on a clock must be asked here."""
    if jax.process_count() == 1:
        return bool(decision)
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.int32(decision))))


def gathered(tree: Any) -> Any:
    """A pytree with the arrays of many devices as whole arrays of one device of this process: a collective.

    Args:
        tree: leaves of any shape (…); keys may be typed. What lies on one device stays as it is.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or len(leaf.devices()) == 1:
            return leaf
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_replicated:
            assert isinstance(leaf.sharding, NamedSharding), leaf.sharding
            leaf = _copied(NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
        return leaf.addressable_data(0)

    return jax.tree.map(one, tree)


@functools.lru_cache(maxsize=16)
def _copied(everywhere: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=everywhere)
