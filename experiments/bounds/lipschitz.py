"""Table and figures of every Lipschitz bound: norm by norm, sharp, measured; fails on the first violated bound."""

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from attnreg.bounds import BOUNDS, Bound, Norms
from attnreg.bounds.measure import Measured, Shape, measure
from attnreg.bounds.row_suprema import SUPREMA, climb, search_three_points
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.figures import PALETTE, canvas

ABOUT = About(
    "Lipschitz bounds under attack",
    "Gradient ascent looks for pairs of points that beat a bound; the largest ratio found stands beside each constant.",
    (
        Metric("violations", "pairs that beat a bound"),
        Metric("improved_pairs", "improved pairs against a bound, fewest", "higher", "bounds.*.improved_pairs", "min"),
        Metric("tightness", "measured over proved constant, loosest bound", "higher", "bounds.*.best_tightness", "min"),
    ),
)

COLUMNS = (
    "bound",
    "R of best",
    "measured",
    "sharp",
    "tightness",
    "worst over R",
    "norm by norm",
    "tightness nbn",
    "pairs",
)


class Violation(AssertionError):
    """A pair of points beats a bound: the message holds the pair."""


def run(config: Any, record: Any) -> dict[str, Any]:
    """Measure all bounds of the config; returns the tables as a dict."""
    key = jax.random.key(config.seed)
    if unknown := set(config.also) - {"rows", "scaling"}:
        raise UsageError(f"config.also has {unknown.pop()!r}; there are 'rows' and 'scaling'")
    bounds = [b for name, b in BOUNDS.items() if not config.only or any(word in name for word in config.only)]
    if not bounds:
        raise UsageError(f"config.only is {config.only!r}: no bound has such a name; there are {', '.join(BOUNDS)}")
    record.expect(len(bounds))
    grid = np.zeros((len(bounds), len(config.radii)))
    empty = {"measured": grid, "random": grid, "improved": grid[:, 0], "evaluated": grid[:, 0]}
    done, state = record.restore(empty)
    state = {name: np.array(value) for name, value in state.items()}
    for i in range(done, len(bounds)):
        one_bound(bounds[i], i, jax.random.fold_in(key, i), config, state)
        tightness = state["measured"][i] / constants_of(bounds[i], config)[1]
        record.log(i + 1, tightness=tightness.max(), improved_pairs=state["improved"][i])
        record.save(i + 1, state)
    results = {bound.name: entry(bound, i, config, state) for i, bound in enumerate(bounds)}
    rows = [line(name, config.radii, result) for name, result in results.items()]
    record.table("lipschitz", COLUMNS, rows)
    record.figure("bounds_against_R", radius_figure(results, config.radii))
    out: dict[str, Any] = {"bounds": results, "violations": 0}
    if "rows" in config.also:
        out["row_suprema"] = row_suprema(config, jax.random.fold_in(key, len(bounds)), record)
    if "scaling" in config.also:
        out["scaling"] = scaling_in_n(config, jax.random.fold_in(key, len(bounds) + 1))
        record.figure("bounds_against_n", size_figure(out["scaling"]))
    least = min(results.values(), key=lambda entry: entry["improved_pairs"])
    record.say(f"{len(bounds)} bounds hold; fewest improved pairs of one bound: {least['improved_pairs']}")
    return out


def constants_of(bound: Bound, config: Any) -> tuple[list[Norms], np.ndarray, np.ndarray]:
    """The domains of the grid with the sharp and the norm-by-norm constant on each."""
    shape = Shape(*config.shapes[bound.family])
    domains = [Norms.ball(bound.family, R, n1=shape.n1, n=shape.n) for R in config.radii]
    return domains, np.array([bound.sharp(d) for d in domains]), np.array([bound.norm_by_norm(d) for d in domains])


def one_bound(bound: Bound, i: int, key: jax.Array, config: Any, state: dict) -> None:
    """Measure bound i into `state` on all radii until enough improved pairs are counted; raises `Violation`."""
    domains, sharp, crude = constants_of(bound, config)
    shape = Shape(*config.shapes[bound.family])
    for again in range(config.max_rounds):
        found = measure(bound, jax.random.fold_in(key, again), domains, shape, starts=config.starts, steps=config.steps)
        check(bound, domains, found, np.minimum(sharp, crude), config.tolerance)
        state["measured"][i] = np.maximum(state["measured"][i], found.supremum)
        state["random"][i] = np.maximum(state["random"][i], found.random_supremum)
        state["improved"][i] += found.improved
        state["evaluated"][i] += found.evaluated
        if state["improved"][i] >= config.improved_pairs:
            return
    raise RuntimeError(
        f"{bound.name}: {state['improved'][i]} improved pairs after {config.max_rounds} rounds, fewer than "
        f"config.improved_pairs = {config.improved_pairs}; raise config.starts or config.max_rounds"
    )


def entry(bound: Bound, i: int, config: Any, state: dict) -> dict:
    """Everything known about one bound, for result.json."""
    _, sharp, crude = constants_of(bound, config)
    best = state["measured"][i]
    return {
        "radii": list(config.radii),
        "measured": best.tolist(),
        "measured_at_random": state["random"][i].tolist(),
        "sharp": sharp.tolist(),
        "norm_by_norm": crude.tolist(),
        "tightness": (best / sharp).tolist(),
        "best_tightness": float(np.max(best / sharp)),
        "tightness_norm_by_norm": (best / crude).tolist(),
        "improved_pairs": int(state["improved"][i]),
        "evaluated_pairs": int(state["evaluated"][i]),
        "status": bound.status,
        "proof": bound.proof,
        "attained": bound.attained,
    }


def line(name: str, radii: Any, result: dict) -> tuple:
    """One line of the table, at the radius where the sharp constant is tightest."""
    best = int(np.argmax(result["tightness"]))
    measured, sharp, crude = (result[k][best] for k in ("measured", "sharp", "norm_by_norm"))
    nbn = result["tightness_norm_by_norm"][best]
    worst = min(result["tightness"])
    return (name, radii[best], measured, sharp, measured / sharp, worst, crude, nbn, result["improved_pairs"])


def check(bound: Bound, domains: list[Norms], found: Measured, limit: np.ndarray, tolerance: float) -> None:
    """Raise `Violation` with the pair if a measured ratio exceeds a constant, or a pair left its domain."""
    for norms, ratio, most, (p, moved, _) in zip(domains, found.supremum, limit, found.pairs, strict=True):
        if not (bound.contains(norms, p) and bound.contains(norms, moved)):
            raise RuntimeError(f"{bound.name}: a measured pair lies outside its domain {norms}:\n{p}\n{moved}")
        if not ratio <= most * (1.0 + tolerance):
            raise Violation(
                f"{bound.name} is violated on {norms}: ratio {ratio!r} > constant {most!r}\nfrom {p}\nto   {moved}"
            )


def row_suprema(config: Any, key: jax.Array, record: Any) -> dict:
    """The proved row constants against exhaustive three-point search and ascent in n coordinates."""
    rows = []
    for i, item in enumerate(SUPREMA):
        if item.order > config.row_orders:
            continue
        three = search_three_points(item.order, item.sign, resolution=config.row_resolution)
        climbed = max(
            climb(item.order, item.sign, jax.random.fold_in(key, 100 * i + n), n=n, starts=config.row_starts,
                  steps=config.row_steps)[0]
            for n in config.row_n
        )  # fmt: skip
        for found in (three, climbed):
            if found > item.proved * (1.0 + config.tolerance):
                raise Violation(f"row {item.name}: found {found!r} > proved {item.proved!r}")
        rows.append(
            (item.name, item.sign * item.proved, item.sign * three, item.sign * climbed, item.sign * item.before)
        )
    columns = ("row supremum", "proved", "three-point grid", "ascent", "norm-product bound")
    record.table("row_suprema", columns, rows)
    return {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows}


def scaling_in_n(config: Any, key: jax.Array) -> dict:
    """Truth and both bounds of a few single-row quantities against the number of keys."""
    R = config.radii[-2]
    out: dict = {"R": R, "n": list(config.scaling_n)}
    for j, name in enumerate(config.scaling):
        bound, measured, sharp, crude = BOUNDS[name], [], [], []
        for n in config.scaling_n:
            norms = Norms.ball(bound.family, R, n1=1, n=n)
            found = measure(
                bound, jax.random.fold_in(key, 1000 * j + n), [norms], Shape(1, n, 2, 1), starts=config.scaling_starts,
                steps=config.scaling_steps,
            )  # fmt: skip
            check(bound, [norms], found, np.array([bound.sharp(norms)]), config.tolerance)
            measured.append(float(found.supremum[0]))
            sharp.append(bound.sharp(norms))
            crude.append(bound.norm_by_norm(norms))
        out[name] = {"measured": measured, "sharp": sharp, "norm_by_norm": crude}
    return out


def _three_lines(axes: Any, x: Any, entry: dict, title: str) -> None:
    axes.semilogy(x, entry["norm_by_norm"], color=PALETTE[1], marker="s", markersize=3, label="norm by norm")
    axes.semilogy(x, entry["sharp"], color=PALETTE[0], marker="o", markersize=3, label="sharp (proved)")
    axes.semilogy(x, entry["measured"], "k--", marker="x", markersize=4, label="measured")
    axes.set_title(title)


FIGURE = (
    ("softmax.u.x", "u in x"),
    ("softmax.f.x", "f in x"),
    ("softmax.gradient.x", "gradient in x"),
    ("softmax.hessian.x", "Hessian in x"),
    ("softmax.residual_rescaled.x", "rescaled residual in x"),
    ("attention.gradient.A1", "attention gradient in A1"),
    ("one_layer.gradient_X.X", "one-layer ∇X in X"),
    ("one_layer.hessian.A3", "one-layer Hessian in A3"),
)


def radius_figure(results: dict, radii: Any) -> Figure:
    """Bound and truth against R on a log axis, for up to eight quantities."""
    shown = [(name, title) for name, title in FIGURE if name in results] or [(n, n) for n in list(results)[:4]]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = canvas(lines, columns, width=2.7, height=2.4)
    for panel, (name, title) in zip(axes.flat, shown, strict=False):
        _three_lines(panel, radii, results[name], title)
    for panel in axes.flat[len(shown) :]:
        panel.set_axis_off()
    for panel in axes[-1]:
        panel.set_xlabel("R")
    axes[0, 0].set_ylabel("Lipschitz constant")
    axes[0, 0].legend(fontsize=7)
    return figure


def size_figure(scaling: dict) -> Figure:
    """Bound and truth against n on a log axis."""
    names = [name for name in scaling if name not in ("R", "n")]
    figure, axes = canvas(1, len(names), width=2.9, height=2.5)
    for panel, name in zip(axes[0], names, strict=True):
        _three_lines(panel, scaling["n"], scaling[name], f"{name.split('.')[1]} in x, R = {scaling['R']}")
        panel.set_xscale("log", base=2)
        panel.set_xlabel("n")
    axes[0, 0].set_ylabel("Lipschitz constant")
    axes[0, 0].legend(fontsize=7)
    return figure
