"""The statements of arXiv 2309.07418 attacked, and Newton's region around one-layer minimisers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.bounds import BOUNDS, Norms, Point
from attnreg.bounds.ascent import ascend
from attnreg.bounds.domain import spectral_ceiling
from attnreg.bounds.layer_region import good_start, kantorovich, one_layer_loss
from attnreg.bounds.measure import Shape, measure
from attnreg.bounds.statements import STATEMENTS, Statement
from attnreg.data.synthetic import layer_instance
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from experiments.bounds.one_layer_lemmas import lemmas
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError

ABOUT = About(
    "Statements on one layer's curvature",
    "The lemmas of arXiv 2309.07418 attacked by ascent, and how far from a minimiser Newton may start.",
    (
        Metric("tightness", "measured over proved, largest", "", "statements.*.measured / sharp", always=False),
        Metric("sharp", "proved distance from which Newton converges, least", "higher", "region.*.sharp", "min", False),
        Metric("published", "published distance, least", "higher", "region.*.published", "min", False),
        Metric("lost", "least distance from which a start was lost", "", "region.*.first lost", "min", False),
    ),
)

COLUMNS = ("statement", "R", "published", "sharp", "measured", "measured / sharp", "improved", "verdict")


class Violation(AssertionError):
    """A point beats a proved constant: the message holds it."""


def run(config: Any, record: Any) -> dict[str, Any]:
    """All parts; fails when a proved constant is beaten or Newton leaves a promised region."""
    if unknown := set(config.parts) - {"statements", "region", "lemmas"}:
        raise UsageError(f"config.parts has {unknown.pop()!r}; there are 'statements', 'region' and 'lemmas'")
    key, out = jax.random.key(config.seed), {}
    if "statements" in config.parts:
        rows = []
        for i, statement in enumerate(STATEMENTS.values()):
            rows += attacked(statement, jax.random.fold_in(key, i), config)
            record.log(i + 1, part="statements", tightness=max(r[5] for r in rows if r[0] == statement.name))
        record.table("statements", COLUMNS, rows)
        out["statements"] = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    if "region" in config.parts:
        regions = [region(config.seed + i, config) for i in range(config.instances)]
        record.table("region", tuple(regions[0]), [list(r.values()) for r in regions])
        out["region"] = regions
    if "lemmas" in config.parts:
        out["lemmas"] = lemmas([minimiser(config.seed + i, config) for i in range(config.instances)], config)
        record.table("lemmas", ("lemma", "found"), list(out["lemmas"].items()))
    return out


def attacked(statement: Statement, key: jax.Array, config: Any) -> list[tuple]:
    """One row a radius: constants, the largest value found, and how many points improved on the one before."""
    n, d, rows = config.n, config.d, []
    for i, R in enumerate(config.radii):
        published, sharp = statement.published(R, n, d), statement.sharp(R, n, d)
        if statement.measure is None:
            found, improved = lipschitz(statement, jax.random.fold_in(key, i), R, config)
        else:
            found, improved = climbed(statement, jax.random.fold_in(key, i), R, config)
        if not found <= sharp * (1.0 + config.tolerance):
            raise Violation(f"{statement.name} at R = {R}: found {found!r} > proved {sharp!r}")
        rows.append((statement.name, R, published, sharp, found, found / sharp, improved, statement.verdict))
    return rows


def lipschitz(statement: Statement, key: jax.Array, R: float, config: Any) -> tuple[float, int]:
    """The measured Lipschitz constant of the bound that a statement is tied to, in the statement's units."""
    bound, n, d = BOUNDS[statement.bound], config.n, config.d
    if bound.family == "softmax":
        norms, shape = Norms.ball("softmax", R, n1=1, n=n), Shape(1, n, d, 1)
        factor = R * R if statement.name.startswith("E.5, γ") else 1.0
    else:  # a part of the published domain: ‖A1‖, ‖A2‖ ≤ √R, so that every ‖A_[j]‖ ≤ R, and ‖Y‖ ≤ R
        norms, shape, factor = Norms.ball("one_layer", R, n1=n, n=n), Shape(n, n, d, d), 0.5
    found = measure(bound, key, [norms], shape, starts=config.starts, steps=config.steps)
    return factor * float(found.supremum[0]), found.improved


def published_point(raw: dict[str, jax.Array], R: jax.Array) -> Point:
    """The point of the published domain that unconstrained arrays stand for."""
    rows = jnp.sqrt(jnp.sum(raw["A1"] ** 2, axis=1))
    columns = jnp.sqrt(jnp.sum(raw["Y"] ** 2, axis=0, keepdims=True))
    x = jnp.sqrt(jnp.sum(raw["X"] ** 2))
    A2, A3 = (R * raw[name] / jnp.maximum(spectral_ceiling(raw[name]), 1.0) for name in ("A2", "A3"))
    A1, X, Y = raw["A1"] / jnp.maximum(jnp.max(rows), 1.0), raw["X"] / jnp.maximum(x, 1.0), raw["Y"]
    return Point(A1, A2, R * X, R * R * jnp.sin(raw["B"]), A3, R * Y / jnp.maximum(columns, 1.0))


def climbed(statement: Statement, key: jax.Array, R: float, config: Any) -> tuple[float, int]:
    """The largest value that ascent over points and unit directions finds."""
    n, d, dtype = config.n, config.d, jnp.zeros(()).dtype
    shapes = dict(A1=(n, d), A2=(n, d), A3=(n, d), X=(d, d), Y=(d, d), B=(n, d), z=(n,), V=(d, d), W=(d, d))
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    raw = {name: jax.random.normal(keys[name], (config.starts, *shape), dtype) for name, shape in shapes.items()}
    found = _ascent(statement.name, raw, jnp.asarray(R, dtype), config.steps)
    return float(jnp.max(found.best)), int(jnp.sum(found.kept))


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def _ascent(name: str, raw: dict[str, jax.Array], R: jax.Array, steps: int) -> Any:
    measure_of = STATEMENTS[name].measure
    assert measure_of is not None, "a Lipschitz statement is measured by its bound"

    def value(raw: dict[str, jax.Array]) -> jax.Array:
        unit = jnp.sqrt(jnp.sum(raw["z"] ** 2))
        size = jnp.sqrt(jnp.sum(raw["V"] ** 2) + (jnp.sum(raw["W"] ** 2) if name == "I.9" else 0.0))
        direction = {"z": raw["z"] / unit, "X": raw["V"] / size, "Y": raw["W"] / size}
        return measure_of(published_point(raw, R), direction)

    return ascend(value, raw, project=lambda raw: raw, steps=steps)


# --- Newton's region ----------------------------------------------------------------------------------------------


def minimiser(seed: int, config: Any) -> tuple[OneLayerRegression, np.ndarray]:
    """A regularized problem and the best point (p,) that Newton finds from 32 starts."""
    data = layer_instance(jax.random.key(seed), n=config.region_n, d=config.d, noise=config.noise)
    problem = OneLayerRegression(*data, weight=config.weight, ridge=config.ridge, ridge_y=config.ridge)
    rng = np.random.default_rng(seed)
    ends = newton(problem, jnp.asarray(0.3 * rng.normal(size=(32, 2 * config.d**2))), steps=60)
    values, slopes = evaluated(problem, ends)
    solved = jnp.linalg.norm(slopes, axis=1) < 1e-10
    if not bool(jnp.any(solved)):
        raise RuntimeError(f"Newton found no minimiser to study at seed {seed}; raise config.ridge")
    return problem, np.asarray(ends[jnp.argmin(jnp.where(solved, values, jnp.inf))])


def region(seed: int, config: Any) -> dict[str, float]:
    """One minimiser: the three limits of a start's distance, and the distance at which the first start is lost."""
    problem, star = minimiser(seed, config)
    zero = Unknowns(jnp.zeros((config.d, config.d)), jnp.zeros((config.d, config.d)))
    unravel, size = ravel_pytree(zero)[1], 2 * config.d**2
    rng = np.random.default_rng(seed)
    at = unravel(jnp.asarray(star))
    directions = rng.normal(size=(config.directions, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sharp = edge(lambda r: good_start(problem, unravel(jnp.asarray(star + r * directions[0])), at).inside)
    alone = edge(lambda r: kantorovich(problem, unravel(jnp.asarray(star + r * directions[0]))).inside)
    printed = good_start(problem, at, at, kind="published")
    distances = np.append(np.geomspace(sharp, config.far, config.distances), 0.999 * sharp)
    starts = star + np.sort(distances)[:, None, None] * directions
    ends = np.asarray(newton(problem, jnp.asarray(starts.reshape(-1, size)), steps=config.newton_steps))
    arrived = (np.linalg.norm(ends - star, axis=1) < 1e-7).reshape(len(distances), -1).all(axis=1)
    if not arrived[0]:
        raise Violation(f"Newton fails inside {sharp} of a minimiser of seed {seed}")
    lost = float(np.sort(distances)[~arrived].min()) if not arrived.all() else config.far
    return {
        "seed": seed, "l": printed.curvature, "published": printed.limit, "sharp": sharp, "kantorovich": alone,
        "first lost": lost,
    }  # fmt: skip


def edge(inside: Any) -> float:
    """The largest distance that a condition calls inside, by bisection on a log axis."""
    low, high = 1e-12, 10.0
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low


def _flat(problem: OneLayerRegression, d: int) -> Any:
    return lambda v: one_layer_loss(problem, Unknowns(v[: d * d].reshape(d, d), v[d * d :].reshape(d, d)))


@jax.jit
def evaluated(problem: OneLayerRegression, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values (points,) and gradients (points, p)."""
    return jax.vmap(jax.value_and_grad(_flat(problem, problem.A1.shape[2])))(points)


@functools.partial(jax.jit, static_argnames="steps")
def newton(problem: OneLayerRegression, starts: jax.Array, *, steps: int) -> jax.Array:
    """Where plain undamped Newton ends from every start (starts, p); one that leaves the numbers stays."""
    loss = _flat(problem, problem.A1.shape[2])

    def step(v: jax.Array, _: None) -> tuple[jax.Array, None]:
        move = jnp.linalg.solve(jax.hessian(loss)(v), jax.grad(loss)(v))
        return jnp.where(jnp.all(jnp.isfinite(move)), v - move, v), None

    return jax.lax.map(lambda v: jax.lax.scan(step, v, None, length=steps)[0], starts, batch_size=64)
