"""The documents of a layer in blocks: the loop that keeps memory free of all maps at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift.streaming import BlockRule, block_rule, documents_together
from attnreg.objectives.layer_blocks import Documents
from attnreg.problems.layer import LayerRegression

# Entries (heads × documents × queries × keys) of one block on a CPU: measured best from 2¹⁸ to 2²⁰ with 32 MB of cache.
CPU_RULE = BlockRule(2**19, together=True)


def documents_per_block(problem: LayerRegression, heads: int, block_documents: int | BlockRule | None) -> int:
    """Documents per block: `block_documents` or what its rule says, evened out over the blocks."""
    k, n = problem.sizes[:2]
    rule = block_rule(block_documents, CPU_RULE)
    if isinstance(rule, int):
        return documents_together(k, 1, rule)
    return documents_together(k, heads * n * n, rule.entries)


def blocks_of(problem: LayerRegression, per: int) -> int:
    """How many blocks of `per` documents there are."""
    return -(-problem.sizes[0] // per)


def block(problem: LayerRegression, i: Any, per: int) -> Documents:
    """Block i; the last is moved back to end at the last document, and what was seen before is not live."""
    k, n = problem.sizes[:2]
    wanted = jnp.asarray(i, jnp.int32) * per
    start = jnp.minimum(wanted, k - per)
    few = problem.documents(lambda x: jax.lax.dynamic_slice_in_dim(x, start, per))
    mask = None if few.mask is None else jnp.broadcast_to(few.mask, (per, n, n))
    if problem.causal:
        order = jnp.tril(jnp.ones((n, n), bool))[None]
        mask = jnp.broadcast_to(order, (per, n, n)) if mask is None else mask & order
    live = jnp.broadcast_to((start + jnp.arange(per, dtype=jnp.int32) >= wanted)[:, None], (per, n))
    if mask is not None:
        live = live & jnp.any(mask, axis=2)
    return Documents(few.A, few.B, mask, live, few.rotary, few.scale, few.soft_cap)


def sum_over_documents(
    problem: LayerRegression, per: int, emit: Callable[[Documents, Any], Any], kept: Any = None
) -> Any:
    """`Σ emit(documents, kept of the block)` over all blocks."""

    def part(i):
        one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), kept)
        return emit(block(problem, i, per), one)

    if blocks_of(problem, per) == 1:
        return part(0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: part(0)))
    return jax.lax.fori_loop(0, blocks_of(problem, per), lambda i, total: jax.tree.map(jnp.add, total, part(i)), zeros)
