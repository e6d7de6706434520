"""Rows in blocks: the loop that keeps memory free of n×m arrays.

Rows are independent, so every quantity of a problem is a sum over blocks of rows. On a CPU a block is sized to stay in
cache; on an accelerator to be worth its launches, and whole documents share one. The last block is moved back to end
inside its document, and its already seen rows are switched off on the lifting side (`lift`): nothing is padded or
copied.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from attnreg.lift.tensor_trick import matmul
from attnreg.problems.attention import Teacher
from attnreg.rows import softmax


@dataclasses.dataclass(frozen=True)
class BlockRule:
    """How rows are cut into blocks. Static and hashable: it is a part of the program's key.

    Args:
        entries: rows × keys of one block, about.
        together: whole documents share a block where several fit.
    """

    entries: int
    together: bool = False


# A CPU: where two cores share a block 2¹⁹ is best, 2¹⁷ to 2¹⁹ are alike on one (docs/decisions.md, 2026-11-30). On
# accelerators a loop waits for a launch per kernel and trip: python -m tests.accelerators counts them.
RULES = {"cpu": BlockRule(2**19), "gpu": BlockRule(2**24, together=True), "tpu": BlockRule(2**24, together=True)}

BlockRows = int | BlockRule | None


def block_rule(block_rows: BlockRows, cpu: BlockRule = RULES["cpu"]) -> int | BlockRule:
    """`block_rows`, or the rule of JAX's default platform for None; `cpu` is that of a CPU."""
    if block_rows is not None:
        return block_rows
    return (RULES | {"cpu": cpu}).get(jax.default_backend(), RULES["gpu"])


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


class Cut(NamedTuple):
    """Blocks of `rows` rows, `documents` at once; so many `per_document` and `trips` in all."""

    rows: int
    documents: int
    per_document: int
    trips: int

    def place(self, i: Any) -> tuple[Any, Any]:
        """Of block i: which document, or group of documents, and which block of it; `//` would look after signs."""
        i = jnp.asarray(i, jnp.int32)
        if self.per_document == 1:
            return i, jnp.zeros_like(i)
        return jax.lax.div(i, jnp.int32(self.per_document)), jax.lax.rem(i, jnp.int32(self.per_document))


def cut(k: int, n: int, m: int, block_rows: BlockRows = None) -> Cut:
    """How k documents of n rows and m keys are cut, evened out over the blocks.

    >>> cut(8, 512, 512, RULES["cpu"]), cut(1, 2048, 2048, RULES["cpu"]).rows, cut(8, 512, 512, RULES["gpu"]).trips
    (Cut(rows=512, documents=1, per_document=1, trips=8), 256, 1)
    """
    rule = block_rule(block_rows)
    if isinstance(rule, int) and rule < 1:
        raise ValueError(f"block_rows is {rule}; it must be at least 1")
    most = min(n, rule) if isinstance(rule, int) else max(1, min(n, rule.entries // m))
    per_document = -(-n // most)
    rows = most if isinstance(rule, int) else -(-n // per_document)
    together = 1
    if per_document == 1 and isinstance(rule, BlockRule) and rule.together:
        together = documents_together(k, n * m, rule.entries)
    return Cut(rows, together, per_document, -(-k // together) * per_document)


def documents_together(k: int, entries: int, most: int) -> int:
    """How many of k documents of so many `entries` each share a block of `most`, evened out over the blocks."""
    blocks = -(-k // max(1, min(k, most // entries)))
    return -(-k // blocks)


class Parts(NamedTuple):
    """What a block gives, as pytrees of arrays or None, and what all blocks give together.

    total: any shape, added up. rows: (r, …), gathered to (k, n, …). documents: any shape, added up within each document
    to (k, …).
    """

    total: Any = None
    rows: Any = None
    documents: Any = None


def stream(problem: Streamed, emit: Callable[[Block], Parts], *, block_rows: BlockRows = None) -> Parts:
    """`emit` over all blocks of all documents, put together as `Parts` says.

    Sums must not count rows that are not fresh: take them from `lift`, or ask `fresh`.

    Cost: one call of `emit` a block, over several documents at once where the rule says so. One block makes no loop.
    """
    k, n, m = problem.sizes[:3]
    by = cut(k, n, m, block_rows)

    def several(i) -> Parts:
        """Parts of the i-th block, with a leading axis of documents in `rows` and `documents`."""
        if by.documents > 1:
            each = jax.vmap(emit)(_documents(problem, i * by.documents, by.documents))
            return each._replace(total=jax.tree.map(lambda x: jnp.sum(x, axis=0), each.total))
        one = emit(_block(problem, *by.place(i), by.rows))
        return one._replace(rows=_lead(one.rows), documents=_lead(one.documents))

    if by.trips == 1:
        return several(0)
    shapes = jax.eval_shape(lambda: several(0))
    whole = Parts(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.total),
        jax.tree.map(lambda x: jnp.zeros((k, n, *x.shape[2:]), x.dtype), shapes.rows),
        jax.tree.map(lambda x: jnp.zeros((k, *x.shape[1:]), x.dtype), shapes.documents),
    )

    def body(i, carry: Parts) -> Parts:
        document, index = by.place(i)
        document = jnp.minimum(document * by.documents, k - by.documents)
        start = jnp.minimum(index * by.rows, n - by.rows)
        new = several(i)
        return Parts(
            jax.tree.map(jnp.add, carry.total, new.total),
            jax.tree.map(lambda x, part: _put(x, part, document, start), carry.rows, new.rows),
            jax.tree.map(
                lambda x, part: _put(x, part + _at(x, part, document), document), carry.documents, new.documents
            ),
        )

    return jax.lax.fori_loop(0, by.trips, body, whole)


def sum_over_blocks(problem: Streamed, emit: Callable[[Block], Any], *, block_rows: BlockRows = None) -> Any:
    """`Σ emit(block)` over all blocks of all documents; `emit` returns a pytree of arrays."""
    return stream(problem, lambda block: Parts(total=emit(block)), block_rows=block_rows).total


def map_over_blocks(problem: Streamed, emit: Callable[[Block], Any], *, block_rows: BlockRows = None) -> Any:
    """Per-row results of `emit` (leading axis r) gathered for all rows: leading axes (k, n)."""
    return stream(problem, lambda block: Parts(rows=emit(block)), block_rows=block_rows).rows


def fold_blocks(
    problem: Streamed, update: Callable[[Any, Block], Any], init: Any, *, block_rows: BlockRows = None
) -> Any:
    """`update` folded over all blocks of all documents, one after another, starting from `init`, a pytree of any shape.

    For what depends on the order of the rows; all else is a `stream`.

    Cost: one call of `update` a block and document.
    """
    k, n, m, _, _ = problem.sizes
    by = cut(1, n, m, block_rows)
    if k * by.per_document == 1:
        return update(init, _block(problem, 0, 0, by.rows))

    def body(i, carry):
        return update(carry, _block(problem, *by.place(i), by.rows))

    return jax.lax.fori_loop(0, k * by.per_document, body, init)


def rows_of(block: Block, x: jax.Array) -> jax.Array:
    """The rows (r, …) of an array x (k, n, …) that belong to a block."""
    start = (block.document, block.start, *(jnp.zeros_like(block.start) for _ in x.shape[2:]))
    return jax.lax.dynamic_slice(x, start, (1, block.fresh.shape[0], *x.shape[2:]))[0]


def _lead(tree: Any) -> Any:
    """Arrays with a leading axis of one document."""
    return jax.tree.map(lambda x: x[None], tree)


def _at(whole: jax.Array, part: jax.Array, document: Any) -> jax.Array:
    """The documents of `whole` (k, …) that `part` (documents, …) is about."""
    return jax.lax.dynamic_slice_in_dim(whole, document, part.shape[0])


def _put(whole: jax.Array, part: jax.Array, *start: Any) -> jax.Array:
    """`whole` with `part` at `start`, counted in the first axes."""
    zero = jnp.zeros((), jnp.int32)
    full = [jnp.asarray(at, jnp.int32) for at in start] + [zero] * (whole.ndim - len(start))
    return jax.lax.dynamic_update_slice(whole, part, full)


def _documents(problem: Streamed, wanted: Any, together: int) -> Block:
    """A block for each of some whole documents, stacked; the last are moved back, and those seen before not fresh."""
    k, n = problem.sizes[:2]
    wanted = jnp.asarray(wanted, jnp.int32)
    first = jnp.minimum(wanted, k - together)
    document = first + jnp.arange(together, dtype=jnp.int32)

    def take(x):
        if x.shape[0] == 1:
            return jnp.broadcast_to(x, (together, *x.shape[1:]))
        return x if together == k else jax.lax.dynamic_slice_in_dim(x, first, together)

    # Where the documents divide evenly none is moved back, and the compiler is told so.
    live = jnp.ones(together, bool) if k % together == 0 else document >= wanted
    fresh = jnp.broadcast_to(live[:, None], (together, n))
    return _assembled(problem, take, take, fresh, document, jnp.zeros_like(document))


def _block(problem: Streamed, document, index, rows: int) -> Block:
    """Rows [start, start + rows) of a document, `start` moved back at the end of the document."""
    n = problem.sizes[1]
    document = jnp.asarray(document, jnp.int32)
    wanted = jnp.asarray(index, jnp.int32) * rows
    start, fresh = wanted, jnp.ones(rows, bool)
    if n % rows:  # where rows divide evenly none is moved back, and the compiler is told so
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

    return _assembled(problem, take_rows, take_document, fresh, document, start)


def _assembled(
    problem: Streamed, take_rows, take_keys, fresh: jax.Array, document: jax.Array, start: jax.Array
) -> Block:
    """The block whose rows and keys two functions take from an array; stacked where `document` is."""
    query, mask = take_rows(problem.A1), _mask_rows(problem, take_rows, fresh, start)
    if isinstance(problem.B, Teacher):
        b = softmax(matmul(take_rows(problem.B.Q), take_keys(problem.B.K).swapaxes(-1, -2)), mask)
    else:
        b = take_rows(problem.B)
    return Block(
        query=query,
        lift=jnp.where(fresh[..., None], query, jnp.zeros((), query.dtype)),
        keys=take_keys(problem.A2),
        b=b,
        mask=mask,
        weight=None if problem.weight is None else take_rows(problem.weight),
        fresh=fresh,
        document=document,
        start=start,
    )


def _mask_rows(problem: Streamed, take_rows, fresh: jax.Array, start: jax.Array) -> jax.Array | None:
    """The boolean mask of a block, (…, rows, m): stored mask and causal order together."""
    m, mask = problem.sizes[2], None
    if problem.mask is not None:
        mask = jnp.broadcast_to(take_rows(problem.mask), (*fresh.shape, m))
    if problem.causal:
        shape = (*fresh.shape, m)
        query, key = (jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - axis) for axis in (2, 1))
        order = key <= query + start[..., None, None]
        mask = order if mask is None else mask & order
    return mask
