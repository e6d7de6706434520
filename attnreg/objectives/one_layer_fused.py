"""The one-layer objective by kernels: two sweeps over the keys for value and gradient, two more for a product.

Letters as in `attnreg.objectives.one_layer_rows`. A row's `q_i = ⟨Y r, v_i⟩` is a logit of other queries on other keys,
so a sweep forms it like the logits themselves, and `μ = ⟨zY, r⟩` is known before. What has c columns stays outside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.sweeps import Allowed, Operands, Tile, Tiles, sweep
from attnreg.objectives.fused import Scores, attention, scores
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


class LayerRows(NamedTuple):
    """What is known of each row: its softmax, z (k, n, d3), residual r (k, n, c), `Y r` (k, n, d3) and μ (k, n, 1).

    f: `Σ f k` (k, n, d2), where products are wanted.
    """

    own: Scores
    z: jax.Array
    r: jax.Array
    back: jax.Array
    mu: jax.Array
    f: jax.Array | None = None


def layer_rows(problem: OneLayerRegression, params: Unknowns, tiles: Tiles, *, products: bool = False) -> LayerRows:
    """The `LayerRows` at (X, Y), by one sweep."""
    means = {"z": problem.A3} | ({"f": None} if products else {})
    queries = tt.matmul(problem.A1, params.X)
    own, found = scores(queries, problem.A2, _allowed(problem), tiles, means)
    out = tt.matmul(found["z"], params.Y)
    r = out - problem.B
    mu = jnp.sum(out * r, axis=2, keepdims=True)
    return LayerRows(own, found["z"], r, tt.matmul(r, params.Y.T), mu, found.get("f"))


def value(rows: LayerRows) -> jax.Array:
    """The loss of all rows without regularizers, a scalar."""
    return jnp.sum(rows.r * rows.r)


def gradient(problem: OneLayerRegression, rows: LayerRows, tiles: Tiles) -> Unknowns:
    """The gradient of all rows in X and Y, by one sweep: `Σ a_j (2A2ᵀp_j)ᵀ` and `2ZᵀR`."""

    def p(row: Any, tile: Tile, f: jax.Array) -> jax.Array:
        return f * (tile.keys["values"].logits(row["back"]) - row["mu"])

    lifted = _lifted(problem, rows.own, {"back": rows.back, "mu": rows.mu}, p, tiles)
    return Unknowns(_in_x(problem, lifted), 2 * tt.einsum("knb,knc->bc", rows.z, rows.r))


def hvp(
    problem: OneLayerRegression, params: Unknowns, rows: LayerRows, v: Unknowns, tiles: Tiles, *, gauss_newton: bool
) -> Unknowns:
    """The Hessian or Gauss–Newton matrix of all rows times v, shaped like v, by two sweeps.

    Along v a logit moves by t and z by `dz = Σ f (t − ⟨f,t⟩) v`, the first sweep. Then r and q move by dr and dq, and
    the row gradient by `2f∘[(t − ⟨f,t⟩)∘(q − μ) + dq − dμ]`, the second; `dμ = ⟨Y r, dz⟩ + ⟨dq's queries, z⟩`.
    """
    moved = tt.matmul(problem.A1, v.X)
    assert rows.f is not None
    of_f = jnp.sum(rows.f * moved, axis=2, keepdims=True)
    dz = _moved_values(problem, rows.own, moved, tiles) - of_f * rows.z
    dr = tt.matmul(dz, params.Y) + tt.matmul(rows.z, v.Y)
    dback = tt.matmul(dr, params.Y.T)
    gy = tt.einsum("knb,knc->bc", rows.z, dr)
    if gauss_newton:
        dmu = jnp.sum(dback * rows.z, axis=2, keepdims=True)
        more = {"dback": dback, "dmu": dmu}
    else:
        dback = dback + tt.matmul(rows.r, v.Y.T)
        gy = gy + tt.einsum("knb,knc->bc", dz, rows.r)
        dmu = jnp.sum(rows.back * dz + dback * rows.z, axis=2, keepdims=True)
        more = {"dback": dback, "dmu": dmu, "moved": moved, "of_f": of_f, "back": rows.back, "mu": rows.mu}

    def dp(row: Any, tile: Tile, f: jax.Array) -> jax.Array:
        key, values = tile.keys["own"], tile.keys["values"]
        change = values.logits(row["dback"]) - row["dmu"]
        if not gauss_newton:
            change += (key.logits(row["moved"]) - row["of_f"]) * (values.logits(row["back"]) - row["mu"])
        return f * change

    return Unknowns(_in_x(problem, _lifted(problem, rows.own, more, dp, tiles)), 2 * gy)


def _moved_values(problem: OneLayerRegression, own: Scores, moved: jax.Array, tiles: Tiles) -> jax.Array:
    """`Σ f t v` (k, n, d3), `t = ⟨moved, k⟩`."""

    def weigh(row: Any, tile: Tile, f: jax.Array) -> jax.Array:
        return f * tile.keys["own"].logits(row["moved"])

    return _lifted(problem, own, {"moved": moved}, weigh, tiles, onto="values")


def _lifted(
    problem: OneLayerRegression,
    own: Scores,
    more: dict[str, jax.Array],
    weigh: Callable[[Any, Tile, jax.Array], jax.Array],
    tiles: Tiles,
    onto: str = "own",
) -> jax.Array:
    """The sums of keys (or values) by weights that a function makes of a tile and its attention, one sweep."""

    def step(tile: Tile, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        f = attention(tile.rows["own"], tile.keys["own"], tile.allowed)
        return {"sum": sums["sum"] + tile.keys[onto].lift(weigh(tile.rows, tile, f))}

    keys = {"own": problem.A2, "values": problem.A3}
    width = keys[onto].shape[2]
    operands = Operands({"own": own} | more, keys)
    allowed = _allowed(problem)
    return sweep(step, {"sum": (width, 0.0)}, lambda _, sums: sums, {"sum": width}, operands, allowed, tiles)["sum"]


def _in_x(problem: OneLayerRegression, half: jax.Array) -> jax.Array:
    return 2 * tt.einsum("kna,knb->ab", problem.A1, half)


def _allowed(problem: OneLayerRegression) -> Allowed:
    return Allowed(problem.mask, problem.causal)
