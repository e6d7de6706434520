"""Normalized softmax rows by kernels: what each sweep over the keys adds up, and which problems have kernels at all.

With `f = softmax(s)`, `c = f − b`, `μ = ⟨f, c⟩`, `p = f∘(c − μ)` and keys k (docs/theory/closed_forms.md), a row needs
the sums `Σ f k`, `Σ f c k` and `Σ f² k` beside numbers; its gradient and curvature are made of them. The first sweep
finds the maximum and the total of each softmax; the second has residuals, which are formed before they are squared. A
product with a vector is one sweep more.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.sweeps import TILES, VMEM_BYTES, Allowed, Keys, Operands, Tile, Tiles, sweep
from attnreg.problems.attention import AttentionRegression, Teacher
from attnreg.problems.checks import check_choice
from attnreg.problems.one_layer import OneLayerRegression
from attnreg.rows.masking import hide

Kernel = Literal["streamed", "fused"] | Tiles


def check_kernel(objective: Any) -> None:
    """Refuse a kernel that is none; "fused" becomes the tiles of the platform, which are part of the program's key."""
    if objective.kernel == "fused":
        tiles = TILES.get(jax.default_backend(), TILES["gpu"])
        object.__setattr__(objective, "kernel", tiles)
    elif not isinstance(objective.kernel, Tiles):
        check_choice("kernel", objective.kernel, ("streamed", "fused"))


def tiles_for(objective: Any) -> Tiles | None:
    """The tiles of an objective that asked for kernels and whose problem has them; None streams its rows in blocks."""
    tiles = objective.kernel
    return tiles if isinstance(tiles, Tiles) and uncovered(objective.problem, tiles) is None else None


def uncovered(problem: Any, tiles: Tiles) -> str | None:
    """Why the rows of a problem are streamed although kernels were asked for; None where they are not.

    The table of docs/guides/accelerators.md, in code (tests/objectives/test_fused.py holds one to the other).
    """
    one_layer = isinstance(problem, OneLayerRegression)
    if not one_layer and problem.loss != "normalized":
        return f"loss {problem.loss!r}"
    if problem.dtype != jnp.float32:
        return f"dtype {problem.dtype}"
    if problem.weight is not None:
        return "weight"
    if not one_layer and problem.soft_cap is not None:
        return "soft_cap"
    targets = problem.A3 if one_layer else problem.B.Q if isinstance(problem.B, Teacher) else None
    widths = (problem.A2.shape[2], 0 if targets is None else targets.shape[2])
    if max(widths) > tiles.widest:
        return f"more than {tiles.widest} columns"
    _, _, m, _, _ = problem.sizes
    pairs = tiles.rows * ((not one_layer and targets is None) + (problem.mask is not None))
    if tiles.compiler == "mosaic" and 8 * m * (sum(widths) + pairs) > VMEM_BYTES:
        return "more keys than fit the fast memory of a TPU"
    return None


class Scores(NamedTuple):
    """A softmax of rows: what multiplies the keys (k, n, w), the maximum of the logits and 1 / total, (k, n, 1)."""

    queries: jax.Array
    top: jax.Array
    inverse: jax.Array


def scores(queries: jax.Array, keys: jax.Array, allowed: Allowed, tiles: Tiles, means: Any = None) -> tuple[Any, Any]:
    """The `Scores` of queries (k, n, w) on keys (k, m, w), and means `Σ f v` (k, n, ·), one for each entry of a dict.

    means: name to values v (k, m, ·), or to None, which stands for the keys.

    Cost: one sweep.
    """
    means = {} if means is None else means
    values = {name: v for name, v in means.items() if v is not None}

    def step(tile: Tile, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key = tile.keys["keys"]
        s = hide(key.logits(tile.rows), tile.allowed, -jnp.inf)
        top = jnp.maximum(sums["top"], jnp.max(s, axis=1, keepdims=True))
        base = _finite(top)
        e, before = jnp.exp(s - base), jnp.exp(sums["top"] - base)
        new = {"top": top, "total": before * sums["total"] + row_sum(e)}
        return new | {name: before * sums[name] + tile.keys.get(name, key).lift(e) for name in means}

    def finish(rows: Any, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        del rows
        inverse = 1 / jnp.where(sums["total"] == 0, jnp.ones_like(sums["total"]), sums["total"])
        return {"top": _finite(sums["top"]), "inverse": inverse} | {name: inverse * sums[name] for name in means}

    wide = {name: (keys if v is None else v).shape[2] for name, v in means.items()}
    begin = {"top": (1, -jnp.inf), "total": (1, 0.0)} | {name: (width, 0.0) for name, width in wide.items()}
    operands = Operands(queries, values | {"keys": keys})
    out = sweep(step, begin, finish, {"top": 1, "inverse": 1} | wide, operands, allowed, tiles)
    return Scores(queries, out["top"], out["inverse"]), {name: out[name] for name in means}


def attention(of: Scores, keys: Keys, allowed: jax.Array | None) -> jax.Array:
    """The attention (r, t) of rows on a tile of keys; 0 where it is not allowed."""
    s = hide(keys.logits(of.queries) - of.top, allowed, -jnp.inf)
    return jnp.exp(s) * of.inverse


class RowSums(NamedTuple):
    """What is known of each row after two sweeps. own, teacher: the softmaxes.

    known: arrays (k, n, ·). value: `‖c‖²`. p: half of the lifted gradient, `Σ p k`. For products also mu: `μ`. norm2:
    `‖f‖²`. f, ff: `Σ f k`, `Σ f² k`.
    """

    own: Scores
    teacher: Scores | None
    known: dict[str, jax.Array]


def row_sums(problem: AttentionRegression, X: jax.Array, tiles: Tiles, want: str = "gradient") -> RowSums:
    """The `RowSums` of all rows at X, as many as the "value", the "gradient" or the "curvature" needs."""
    allowed, B = Allowed(problem.mask, problem.causal), problem.B
    own, _ = scores(_scaled(problem, tt.matmul(problem.A1, X)), problem.A2, allowed, tiles)
    teacher = scores(B.Q, B.K, allowed, tiles)[0] if isinstance(B, Teacher) else None
    level, wide = ("value", "gradient", "curvature").index(want), problem.A2.shape[2]

    def step(tile: Tile, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key = tile.keys["own"]
        f = attention(tile.rows["own"], key, tile.allowed)
        c = _residual(f, tile)
        new = {"value": row_sum(c * c)}
        if level > 0:
            new |= {"mu": row_sum(f * c), "f": key.lift(f), "fc": key.lift(f * c)}
        if level > 1:
            new |= {"norm2": row_sum(f * f), "ff": key.lift(f * f)}
        return {name: sums[name] + part for name, part in new.items()}

    def finish(rows: Any, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        del rows
        return sums | ({"p": sums["fc"] - sums["mu"] * sums["f"]} if level > 0 else {})

    widths = {"value": 1} | ({"mu": 1, "f": wide, "fc": wide} if level > 0 else {})
    widths |= {"norm2": 1, "ff": wide} if level > 1 else {}
    out = (
        {"value": 1}
        | ({"p": wide} if level > 0 else {})
        | ({name: widths[name] for name in ("mu", "norm2", "f", "ff")} if level > 1 else {})
    )
    begin = {name: (width, 0.0) for name, width in widths.items()}
    operands = _operands(problem, own, teacher)
    return RowSums(own, teacher, sweep(step, begin, finish, out, operands, allowed, tiles))


def value(problem: AttentionRegression, X: jax.Array, tiles: Tiles) -> jax.Array:
    """The loss of all rows, a scalar."""
    return jnp.sum(row_sums(problem, X, tiles, "value").known["value"])


def value_and_grad(problem: AttentionRegression, sums: RowSums) -> tuple[jax.Array, jax.Array]:
    """The loss of all rows, a scalar, and `A1ᵀ Γ A2`."""
    return jnp.sum(sums.known["value"]), _lifted(problem, sums.known["p"])


def hvp(problem: AttentionRegression, sums: RowSums, V: jax.Array, tiles: Tiles, *, gauss_newton: bool) -> jax.Array:
    """The Hessian or Gauss–Newton matrix of all rows times V, shaped like V, by one sweep.

    With `t = s'(V)`: `2[Σ w t k − ⟨f,t⟩ Σ w k − ⟨w,t⟩ Σ f k + ‖f‖² ⟨f,t⟩ Σ f k]`, `w = f∘f + p` or `f∘f`. Logits are
    linear in V, so `⟨f, t⟩` and `⟨w, t⟩` are products with `Σ f k` and `Σ w k`.
    """

    def step(tile: Tile, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        key, row = tile.keys["own"], tile.rows
        f = attention(row["own"], key, tile.allowed)
        w = f * f if gauss_newton else f * f + f * (_residual(f, tile) - row["mu"])
        return {"wt": sums["wt"] + key.lift(w * key.logits(row["moved"]))}

    def finish(row: Any, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        f, w, moved = row["f"], row["ff"] if gauss_newton else row["ff"] + row["p"], row["moved"]
        of_f, of_w = row_sum(f * moved), row_sum(w * moved)
        return {"half": sums["wt"] - of_f * w - of_w * f + row["norm2"] * of_f * f}

    rows, keys, pairs = _operands(problem, sums.own, sums.teacher, residual=not gauss_newton)
    unused = ("value", "mu", "p") if gauss_newton else ("value",)
    rows = rows | {"moved": _scaled(problem, tt.matmul(problem.A1, V))}
    rows |= {name: x for name, x in sums.known.items() if name not in unused}
    wide, allowed = problem.A2.shape[2], Allowed(problem.mask, problem.causal)
    out = sweep(step, {"wt": (wide, 0.0)}, finish, {"half": wide}, Operands(rows, keys, pairs), allowed, tiles)
    return _lifted(problem, out["half"])


def _operands(problem: AttentionRegression, own: Scores, teacher: Scores | None, residual: bool = True) -> Operands:
    """Those of a sweep that has the map and, where it is asked for, residuals."""
    if not residual:
        return Operands({"own": own}, {"own": problem.A2})
    if teacher is None or not isinstance(problem.B, Teacher):
        return Operands({"own": own}, {"own": problem.A2}, problem.B)
    return Operands({"own": own, "teacher": teacher}, {"own": problem.A2, "teacher": problem.B.K})


def _residual(f: jax.Array, tile: Tile) -> jax.Array:
    """`f − b` on a tile, 0 where it is not allowed; b stored, or the teacher's."""
    b = tile.pairs if tile.pairs is not None else attention(tile.rows["teacher"], tile.keys["teacher"], tile.allowed)
    return hide(f - b, tile.allowed, 0)


def _lifted(problem: AttentionRegression, half: jax.Array) -> jax.Array:
    return _scaled(problem, 2 * tt.einsum("kna,knb->ab", problem.A1, half))


def _scaled(problem: AttentionRegression, x: jax.Array) -> jax.Array:
    return x if problem.scale is None else problem.scale * x


def _finite(top: jax.Array) -> jax.Array:
    return jnp.where(top == -jnp.inf, jnp.zeros_like(top), top)


def row_sum(x: jax.Array) -> jax.Array:
    """The sums of the rows of a tile (r, t), (r, 1)."""
    return jnp.sum(x, axis=1, keepdims=True)
