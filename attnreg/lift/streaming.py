"""Rows in blocks: the loop that keeps memory free of n×m arrays.

Rows are independent, so every quantity of a problem is a sum over blocks of rows. A block is sized to stay in cache;
the last block of a document is moved back to end inside it and its already seen rows are switched off on the lifting
side (`lift`), so nothing is padded or copied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import matmul
from attnreg.problems.attention import Teacher
from attnreg.rows import softmax

# Entries (rows × keys) of one block. Measured best between 2¹⁷ and 2¹⁹ on CPUs with 1 to 2 MB of L2 cache per core
# (docs/decisions.md, 2026-11-22); on accelerators larger blocks amortise the loop: pass `block_rows`.
BLOCK_ENTRIES = 2**18


class Streamed(Protocol):
    """What a problem must have for its rows to be streamed."""

    @property
    def A1(self) -> Any: ...  # noqa: D102

    @property
    def A2(self) -> Any: ...  # noqa: D102

    @property
    def B(self) -> Any: ...  # noqa: D102

    @property
    def mask(self) -> Any: ...  # noqa: D102

    @property
    def weight(self) -> Any: ...  # noqa: D102

    @property
    def causal(self) -> Any: ...  # noqa: D102

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """(k documents, n queries, m keys, d1, d2)."""
        ...


class Block(NamedTuple):
    """Some rows of one document.

    query: what multiplies the unknown on the left, (r, d1). lift: the same with already seen rows set to zero, so that
    sums over blocks count every row once. keys: (m, d2). b: (r, m) targets. mask: (r, m) or None. weight: broadcastable
    to (r, m) or None. fresh: (r,) False on rows an earlier block has done. document, start: scalars, where it stands.
    """

    query: jax.Array
    lift: jax.Array
    keys: jax.Array
    b: jax.Array
    mask: jax.Array | None
    weight: jax.Array | None
    fresh: jax.Array
    document: jax.Array
    start: jax.Array


def block_rows_for(n: int, m: int, block_rows: int | None = None) -> int:
    """Rows per block: `block_rows` when given, else about `BLOCK_ENTRIES / m`, evened out over the blocks of n rows.

    >>> block_rows_for(512, 512), block_rows_for(2048, 2048), block_rows_for(1, 10**6)
    (512, 128, 1)
    """
    if block_rows is not None:
        if block_rows < 1:
            raise ValueError(f"block_rows is {block_rows}; it must be at least 1")
        return min(block_rows, n)
    most = max(1, min(n, BLOCK_ENTRIES // m))
    blocks = -(-n // most)
    return -(-n // blocks)


def fold_blocks(
    problem: Streamed,
    update: Callable[[Any, Block], Any],
    init: Any,
    *,
    block_rows: int | None = None,
) -> Any:
    """`update` folded over all blocks of all documents, starting from `init`, a pytree of any shape.

    A single block makes no loop.

    Cost: one call of `update` a block.
    """
    k, n, m, _, _ = problem.sizes
    rows = block_rows_for(n, m, block_rows)
    per_document = -(-n // rows)
    if k * per_document == 1:
        return update(init, _block(problem, 0, 0, rows))

    def body(i, carry):
        return update(carry, _block(problem, i // per_document, i % per_document, rows))

    return jax.lax.fori_loop(0, k * per_document, body, init)


def sum_over_blocks(problem: Streamed, emit: Callable[[Block], Any], *, block_rows: int | None = None) -> Any:
    """`Σ emit(block)` over all blocks of all documents; `emit` returns a pytree of arrays."""
    shapes = _emitted(problem, emit, block_rows)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return fold_blocks(
        problem, lambda total, block: jax.tree.map(jnp.add, total, emit(block)), zeros, block_rows=block_rows
    )


def map_over_blocks(problem: Streamed, emit: Callable[[Block], Any], *, block_rows: int | None = None) -> Any:
    """Per-row results of `emit` (leading axis r) gathered for all rows: leading axes (k, n)."""
    k, n = problem.sizes[:2]
    shapes = _emitted(problem, emit, block_rows)
    empty = jax.tree.map(lambda leaf: jnp.zeros((k, n, *leaf.shape[1:]), leaf.dtype), shapes)
    return fold_blocks(
        problem,
        lambda gathered, block: jax.tree.map(lambda whole, part: put_rows(block, whole, part), gathered, emit(block)),
        empty,
        block_rows=block_rows,
    )


def rows_of(block: Block, x: jax.Array) -> jax.Array:
    """The rows (r, …) of an array x (k, n, …) that belong to a block."""
    start = (block.document, block.start, *(jnp.zeros_like(block.start) for _ in x.shape[2:]))
    return jax.lax.dynamic_slice(x, start, (1, block.fresh.shape[0], *x.shape[2:]))[0]


def put_rows(block: Block, whole: jax.Array, part: jax.Array) -> jax.Array:
    """`whole` (k, n, …) with a block's rows replaced by `part` (r, …)."""
    start = (block.document, block.start, *(jnp.zeros_like(block.start) for _ in part.shape[1:]))
    return jax.lax.dynamic_update_slice(whole, part[None], start)


def _emitted(problem: Streamed, emit: Callable[[Block], Any], block_rows: int | None) -> Any:
    rows = block_rows_for(problem.sizes[1], problem.sizes[2], block_rows)
    return jax.eval_shape(lambda: emit(_block(problem, 0, 0, rows)))


def _block(problem: Streamed, document, index, rows: int) -> Block:
    """Rows [start, start + rows) of a document, `start` moved back at the end of the document."""
    n = problem.sizes[1]
    document = jnp.asarray(document, jnp.int32)
    wanted = jnp.asarray(index, jnp.int32) * rows
    start = jnp.minimum(wanted, n - rows)
    fresh = start + jnp.arange(rows, dtype=jnp.int32) >= wanted

    def take_document(x):
        return jax.lax.dynamic_index_in_dim(x, jnp.minimum(document, x.shape[0] - 1), keepdims=False)

    def take_rows(x):
        """Rows of a (k|1, n|1, ·) array."""
        size = (1, rows if x.shape[1] == n and n > 1 else x.shape[1], x.shape[2])
        first = start if x.shape[1] == n and n > 1 else jnp.zeros_like(start)
        which = jnp.minimum(document, x.shape[0] - 1)
        return jax.lax.dynamic_slice(x, (which, first, jnp.zeros_like(start)), size)[0]

    query = take_rows(problem.A1)
    mask = _mask_rows(problem, take_rows, start, rows)
    if isinstance(problem.B, Teacher):
        b = softmax(matmul(take_rows(problem.B.Q), take_document(problem.B.K).T), mask)
    else:
        b = take_rows(problem.B)
    return Block(
        query=query,
        lift=jnp.where(fresh[:, None], query, jnp.zeros((), query.dtype)),
        keys=take_document(problem.A2),
        b=b,
        mask=mask,
        weight=None if problem.weight is None else take_rows(problem.weight),
        fresh=fresh,
        document=document,
        start=start,
    )


def _mask_rows(problem: Streamed, take_rows, start, rows: int) -> jax.Array | None:
    """The boolean mask of a block, (rows, m): stored mask and causal order together."""
    m = problem.sizes[2]
    mask = None
    if problem.mask is not None:
        mask = jnp.broadcast_to(take_rows(problem.mask), (rows, m))
    if problem.causal:
        order = jnp.arange(m, dtype=jnp.int32)[None, :] <= (start + jnp.arange(rows, dtype=jnp.int32))[:, None]
        mask = order if mask is None else mask & order
    return mask
