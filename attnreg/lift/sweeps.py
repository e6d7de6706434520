"""One sweep over the keys as one kernel: logits live in registers, tile by tile, and no (n, m) array is in memory.

All that a loss needs of a row is sums over its keys. `sweep` cuts the rows into the blocks of a grid and the keys into
the tiles of a loop; a function of one tile adds to the sums. Pallas compiles that: by Triton for a GPU, by Mosaic for a
TPU. On a CPU it is interpreted, operation by operation, which is slow and for tests. Nothing here knows a loss.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift.precision import PRECISION


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How kernels cut rows and keys on one platform. Static and hashable: it is a part of the program's key.

    Args:
        compiler: "triton" or "mosaic".
        rows, keys: of one tile, powers of two.
        widest: columns that a row or a key may have: registers hold no more.
        interpret: not compiled at all.
    """

    compiler: str
    rows: int
    keys: int
    widest: int
    interpret: bool = False


# A GPU: with more rows or keys, or more columns, the registers of exact float32 products run over
# (python -m tests.accelerators h100). A TPU: the fewest cycles of the tiles that were compiled (docs/decisions.md).
TILES = {
    "gpu": Tiles("triton", 16, 32, 64),
    "tpu": Tiles("mosaic", 128, 512, 512),
    "cpu": Tiles("mosaic", 128, 512, 512, interpret=True),
}
# What the compiled kernels are called.
NAME = "sweep"
# What the blocks of a TPU's kernel may take of its fast memory, 128 MB.
VMEM_BYTES = 96 * 2**20


class Keys(NamedTuple):
    """A tile of keys. array: (t, w), or (w, t) where `across`."""

    array: jax.Array
    across: bool

    def logits(self, rows: jax.Array) -> jax.Array:
        """Products (r, t) of rows (r, w) with the keys."""
        return _dot(rows, self.array, 0 if self.across else 1)

    def lift(self, weights: jax.Array) -> jax.Array:
        """Sums (r, w) of the keys by weights (r, t)."""
        return _dot(weights, self.array, 1 if self.across else 0)


def _dot(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), PRECISION, a.dtype)


class Tile(NamedTuple):
    """What `step` sees: trees of rows (r, w), of `Keys` and of pairs (r, t). allowed: (r, t), which count, or None."""

    rows: Any
    keys: Any
    pairs: Any
    allowed: jax.Array | None


Sums = Mapping[str, jax.Array]
Step = Callable[[Tile, dict[str, jax.Array]], dict[str, jax.Array]]


class Allowed(NamedTuple):
    """Which keys a query may attend. mask: (k, n, m), any of them 1, or None. causal: only those up to it."""

    mask: jax.Array | None
    causal: bool


class Operands(NamedTuple):
    """Trees of float32 arrays: rows (k, n, w), keys (k, m, w), pairs (k, n, m)."""

    rows: Any
    keys: Any
    pairs: Any = None


def sweep(
    step: Step,
    begin: Mapping[str, tuple[int, float]],
    finish: Callable[[Any, dict[str, jax.Array]], Sums],
    out: Mapping[str, int],
    operands: Operands,
    allowed: Allowed,
    tiles: Tiles,
) -> dict[str, jax.Array]:
    """What `finish` makes of the sums of each row over its keys, each (k, n, width).

    Args:
        step: from a `Tile` and the sums so far, (r, width) each, to the sums after it.
        begin: name of a sum to its width and the number that it starts from.
        finish: from the rows (r, w) and their sums (r, width) to what is written of them.
        out: the names of what is written, and their widths.
        operands: what the tiles are taken from.
        allowed: the keys of each row.
        tiles: those of the platform.

    Cost: one kernel, which reads `pairs` once and the keys once for each block of rows.
    """
    from jax.experimental import pallas as pl

    rows, keys, pairs = operands
    leaf = jax.tree.leaves(rows)[0]
    (k, n, _), m = leaf.shape, jax.tree.leaves(keys)[0].shape[1]
    size = _Size(n, m, tiles.rows, tiles.keys, -(-n // tiles.rows), -(-m // tiles.keys))
    mask = None if allowed.mask is None else allowed.mask.astype(jnp.int8)
    across = tiles.compiler == "mosaic"
    inputs = (
        jax.tree.map(lambda x: _padded(x, size.blocks * size.r, tiles), rows),
        jax.tree.map(lambda x: _turned(_padded(x, size.tiles * size.t, tiles), across), keys),
        pairs,
        mask,
    )
    flat, tree = jax.tree.flatten(inputs)
    specs, _ = jax.tree.flatten(
        (
            jax.tree.map(lambda x: _row_spec(pl, size.r, x.shape[2]), inputs[0]),
            jax.tree.map(lambda x: pl.BlockSpec((None, *x.shape[1:]), lambda d, i: (d, 0, 0)), inputs[1]),
            jax.tree.map(lambda x: _pair_spec(pl, x.shape, size), (pairs, mask)),
        ),
        is_leaf=lambda x: isinstance(x, pl.BlockSpec),
    )
    widths = {name: _wide(width, tiles) for name, width in out.items()}

    def kernel(*refs):
        row_refs, key_refs, pair_refs, mask_ref = jax.tree.unflatten(tree, refs[: len(flat)])
        first = pl.program_id(1) * size.r
        row = jax.tree.map(lambda ref: ref[...], row_refs)

        def body(i, sums):
            at = i * size.t
            inside = _inside(first, at, size)
            tile = Tile(
                row,
                jax.tree.map(lambda ref: _key_tile(pl, ref, at, size.t, across), key_refs),
                jax.tree.map(lambda ref: _pair_tile(pl, ref, at, inside, size, across), pair_refs),
                _allowed(pl, mask_ref, allowed.causal, first, at, inside, size, across),
            )
            return step(tile, sums)

        zero = {name: jnp.full((size.r, _wide(w, tiles)), fill, leaf.dtype) for name, (w, fill) in begin.items()}
        last: Any = size.tiles
        if allowed.causal:  # the tiles behind the last row of the block have nothing to say
            last = jnp.minimum(last, jax.lax.div(first + (size.r + size.t - 1), size.t))
        written = finish(row, jax.lax.fori_loop(0, last, body, zero))
        for name, ref in zip(out, refs[len(flat) :], strict=True):
            ref[...] = written[name]

    shapes = [jax.ShapeDtypeStruct((k, size.blocks * size.r, width), leaf.dtype) for width in widths.values()]
    with jax.enable_x64(False):  # neither compiler takes indices of 64 bits
        found = pl.pallas_call(
            kernel,
            name=NAME,
            grid=(k, size.blocks),
            in_specs=specs,
            out_specs=[_row_spec(pl, size.r, width) for width in widths.values()],
            out_shape=shapes,
            interpret=tiles.interpret,
            compiler_params=None if tiles.interpret else _params(tiles),
        )(*flat)
    return {name: x[:, :n, :width] for (name, width), x in zip(out.items(), found, strict=True)}


class _Size(NamedTuple):
    """n rows in `blocks` of r, m keys in `tiles` of t."""

    n: int
    m: int
    r: int
    t: int
    blocks: int
    tiles: int


def _params(tiles: Tiles) -> Any:
    if tiles.compiler == "triton":
        from jax.experimental.pallas import triton

        return triton.CompilerParams(num_warps=4, num_stages=2)
    from jax.experimental.pallas import tpu

    return tpu.CompilerParams(vmem_limit_bytes=VMEM_BYTES)


def _wide(width: int, tiles: Tiles) -> int:
    """The width that the compiler takes: a power of two, at least 16, for Triton's products."""
    return width if width == 1 or tiles.compiler == "mosaic" else max(16, 1 << (width - 1).bit_length())


def _padded(x: jax.Array, length: int, tiles: Tiles) -> jax.Array:
    """(k, length, wide) from (k, n, w), with zeros behind."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, _wide(x.shape[2], tiles) - x.shape[2])))


def _turned(x: jax.Array, across: bool) -> jax.Array:
    return jnp.swapaxes(x, 1, 2) if across else x


def _row_spec(pl: Any, r: int, width: int) -> Any:
    return pl.BlockSpec((None, r, width), lambda d, i: (d, i, 0))


def _pair_spec(pl: Any, shape: tuple[int, ...], size: _Size) -> Any:
    """The block of rows of an array (k|1, n|1, m|1); it may reach over the end of the array."""
    many, tall, long = (length > 1 for length in shape)
    block = (None, size.r if tall else 1, size.tiles * size.t if long else 1)
    return pl.BlockSpec(block, lambda d, i: (d if many else 0, i if tall else 0, 0))


def _inside(first: Any, at: Any, size: _Size) -> tuple[jax.Array, jax.Array] | None:
    """Which rows (r, 1) and which keys (1, t) of a tile there are; None where nothing is padded."""
    if size.n == size.blocks * size.r and size.m == size.tiles * size.t:
        return None
    row = first + jax.lax.broadcasted_iota(jnp.int32, (size.r, 1), 0)
    key = at + jax.lax.broadcasted_iota(jnp.int32, (1, size.t), 1)
    return row < size.n, key < size.m


def _key_tile(pl: Any, ref: Any, at: Any, t: int, across: bool) -> Keys:
    at = pl.ds(pl.multiple_of(at, t), t)
    return Keys(ref[:, at] if across else ref[at, :], across)


def _pair_tile(pl: Any, ref: Any, at: Any, inside: Any, size: _Size, across: bool) -> jax.Array:
    """(r|1, t|1) of a block of rows; what is behind the end of the array is anything, and is not read on a GPU."""
    rows, long = ref.shape[0], ref.shape[1] > 1
    view = ref.at[:, pl.ds(pl.multiple_of(at, size.t), size.t)] if long else ref
    if across or inside is None:
        return view[...]
    from jax.experimental.pallas import triton

    there = (inside[0] if rows > 1 else jnp.ones((1, 1), bool)) & (inside[1] if long else jnp.ones((1, 1), bool))
    return triton.load(view, mask=there, other=jnp.zeros((), ref.dtype))


def _allowed(pl: Any, mask_ref: Any, causal: bool, first: Any, at: Any, inside: Any, size: _Size, across: bool) -> Any:
    """Which pairs of a tile count, (r, t), or None for all."""
    shape = (size.r, size.t)
    conditions = [] if inside is None else [jnp.broadcast_to(inside[0] & inside[1], shape)]
    if causal:
        row, key = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        conditions.append(key + at <= row + first)
    if mask_ref is not None:
        seen = _pair_tile(pl, mask_ref, at, inside, size, across).astype(jnp.int32) != 0
        conditions.append(jnp.broadcast_to(seen, shape))
    return None if not conditions else jax.tree.reduce(jnp.logical_and, conditions)
