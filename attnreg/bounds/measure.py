"""How large a ratio `change/distance` can be found: random pairs, then gradient ascent through the quantity.

Every start is a pair of points of the domain with its own separation, from a thousandth of the domain to all of it.
Ascent moves both points, the other data and (for Hessians) the direction along the normalized gradient of the log
ratio; every array is pulled back into its ball, so each visited pair is inside the domain. A step is kept only if the
ratio grew: the *improved pairs* counted are those kept, all different. Starts are mapped with `vmap`, steps scanned.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.bounds.ascent import ascend
from attnreg.bounds.domain import Norms, Point, spectral_ceiling
from attnreg.bounds.registry import Bound

CLOSEST = 1e-3  # separation of the closest pairs, relative to the ball's radius
CLOSEST_LOGITS = 1e-6  # the same for relative bounds, in the largest logit change
RADII = {"A1": "a1", "A2": "a2", "A3": "a3", "X": "x", "Y": "y"}


class Shape(NamedTuple):
    """Sizes of the instances: n1 queries, n keys, d columns of every factor, m columns of B in the one-layer family."""

    n1: int
    n: int
    d: int
    m: int


class Measured(NamedTuple):
    """What a measurement found, one entry per domain of the grid.

    Attributes:
        supremum: largest ratio on each domain (domains,), on the host.
        random_supremum: the same (domains,) before any ascent.
        improved: how many pairs were better than the one they came from, over all domains.
        evaluated: how many pairs were evaluated.
        pairs: the best pair of each domain, and the direction of a Hessian's quadratic form.
    """

    supremum: np.ndarray
    random_supremum: np.ndarray
    improved: int
    evaluated: int
    pairs: list[tuple[Point, Point, Any]]


def sizes(family: str, shape: Shape) -> dict[str, tuple[int, int]]:
    """The array shapes of one instance of `family`; in the softmax family there is one row and A1 = (1)."""
    n1, n, d, m = shape
    if family == "softmax":
        return {"A2": (n, d), "X": (1, d), "B": (1, n)}
    names = {"A1": (n1, d), "A2": (n, d), "X": (d, d), "B": (n1, n)}
    if family == "one_layer":
        names |= {"A3": (n, d), "Y": (d, m), "B": (n1, m)}
    return names


def _frobenius(z: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(z * z) + float(jnp.finfo(z.dtype).tiny) ** 0.5)


def _unit_ball(name: str, z: jax.Array) -> jax.Array:
    """`z` pulled radially into the unit ball of its norm."""
    size = _frobenius(z) if name in ("X", "B") else spectral_ceiling(z)
    return z / jnp.maximum(size, 1.0)


def _targets(bound: Bound, z: jax.Array, b: Any) -> jax.Array:
    """Rows in the simplex (squares, so that one-hot rows are reached), or rows of norm at most b."""
    if bound.simplex:
        square = z * z
        return square / jnp.sum(square, axis=1, keepdims=True)
    rows = jnp.sqrt(jnp.sum(z * z, axis=1, keepdims=True))
    return b * z / jnp.maximum(rows, 1.0)


def _pair(
    bound: Bound, raw: dict[str, jax.Array], limits: Norms, separation: jax.Array
) -> tuple[Point, Point, dict[str, jax.Array]]:
    """The two points and the unit direction that `raw` (unconstrained) stands for."""
    balls = {name: getattr(limits, RADII[name]) * _unit_ball(name, raw[name]) for name in raw if name in RADII}
    B = _targets(bound, raw["B"], limits.b)
    if bound.family == "softmax":
        balls["A1"] = jnp.ones((1, 1), B.dtype)
    moved = raw[bound.variable] + separation * raw["step"] / _frobenius(raw["step"])
    moved = getattr(limits, RADII[bound.variable]) * _unit_ball(bound.variable, moved)
    p = Point(B=B, **balls)
    size = jnp.sqrt(sum(jnp.sum(raw[f"along_{z}"] ** 2) for z in bound.directions) + 0.0) if bound.directions else 1.0
    along = {z: raw[f"along_{z}"] / size for z in bound.directions}
    return p, p._replace(**{bound.variable: moved}), along


def _ratio(bound: Bound, raw: dict[str, jax.Array], limits: Norms, separation: jax.Array) -> jax.Array:
    """change/distance; a pair whose retraction brought it closer than a tenth of its separation counts as farther."""
    p, moved, along = _pair(bound, raw, limits, separation)
    radius = getattr(limits, RADII[bound.variable])
    floor = CLOSEST_LOGITS if bound.relative else 0.1 * separation * radius
    distance = jnp.maximum(bound.distance(p, moved), floor + float(jnp.finfo(separation.dtype).tiny) ** 0.5)
    return bound.change(p, moved, along) / distance


def _draw(bound: Bound, shape: Shape, key: jax.Array, starts: int, dtype: Any) -> dict[str, jax.Array]:
    """Raw arrays of all starts: radii spread over and beyond the ball, targets between flat and one-hot.

    Drawn outside the compiled ascent, whose compilation would otherwise spend half its time on the generator.
    """
    parts = dict(sizes(bound.family, shape))
    parts["step"] = parts[bound.variable]
    parts |= {f"along_{z}": parts[z] for z in bound.directions}
    keys = jax.random.split(key, len(parts))
    raw = {}
    for part_key, (name, size) in zip(keys, parts.items(), strict=True):
        scale_key, entry_key = jax.random.split(part_key)
        z = jax.random.normal(entry_key, (starts, *size), dtype)
        z = z / jnp.sqrt(jnp.sum(z * z, axis=(1, 2), keepdims=True))
        scale = jax.random.uniform(scale_key, (starts, 1, 1), dtype, 0.3, 3.0)
        raw[name] = z**3 if name == "B" else scale * z if name in RADII else z
    return raw


def _normalized(bound: Bound, raw: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`raw` with balls pulled in and free directions at unit size, which changes no pair but keeps steps comparable."""
    out = {}
    for name, z in raw.items():
        if name in RADII and name != bound.variable:
            out[name] = _unit_ball(name, z)
        elif name == bound.variable:
            out[name] = z / jnp.maximum(_frobenius(z) / z.shape[1] ** 0.5, 1.0)
        else:
            out[name] = z / _frobenius(z)
    return out


@functools.partial(jax.jit, static_argnames=("bound", "steps"))
def _attack(
    bound: Bound, raw: dict[str, jax.Array], separation: jax.Array, limits: Norms, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Ascent from all starts on one domain: the best ratio before and after, the count of kept steps, the best pair."""
    tiny = float(jnp.finfo(separation.dtype).tiny)
    project = jax.vmap(functools.partial(_normalized, bound))

    def log_ratio(raw: dict[str, jax.Array], separation: jax.Array) -> jax.Array:
        return jnp.log(_ratio(bound, raw, limits, separation) + tiny)

    found = ascend(log_ratio, project(raw), separation, project=project, steps=steps)
    best = jnp.argmax(found.best)
    pair = _pair(bound, {k: z[best] for k, z in found.end.items()}, limits, separation[best])
    return jnp.exp(jnp.max(found.first)), jnp.exp(found.best[best]), jnp.sum(found.kept), pair


def measure(bound: Bound, key: jax.Array, domains: list[Norms], shape: Shape, *, starts: int, steps: int) -> Measured:
    """Largest `change/distance` found on each domain, at random and after ascent.

    Args:
        bound: an entry of `registry.BOUNDS`.
        key: a PRNG key.
        domains: limits, one measurement each; they share one compiled program.
        shape: sizes of the instances.
        starts: pairs ascended at once, per domain.
        steps: ascent steps per pair.

    Returns:
        `Measured`: suprema per domain, the number of improved pairs, and the best pair of every domain.

    Precision: a ratio of pairs at relative separation r carries a relative error of about eps/r of the quantity.
    Cost: `starts · (steps + 1)` values and gradients per domain; memory `O(starts)` instances.

    Example: tests/bounds/test_measure.py (compiling one ascent costs seconds, too much for a doctest).
    """
    dtype = jnp.zeros(()).dtype
    before, after, kept, pairs = [], [], 0, []
    for i, norms in enumerate(domains):
        limits = jax.tree.map(lambda v: jnp.asarray(v, dtype), norms)  # traced: all domains share one program
        draw_key, separation_key = jax.random.split(jax.random.fold_in(key, i))
        raw = _draw(bound, shape, draw_key, starts, dtype)
        exponent = jax.random.uniform(separation_key, (starts,), dtype, float(np.log(CLOSEST)), 0.0)
        first, last, count, pair = _attack(bound, raw, jnp.exp(exponent), limits, steps)
        before.append(float(first))
        after.append(float(last))
        kept += int(count)
        pairs.append(jax.tree.map(np.asarray, pair))
    evaluated = len(domains) * starts * (steps + 1)
    return Measured(np.array(after), np.array(before), kept, evaluated, pairs)
