"""Random noiseless one-layer instances: the fraction solved within a CPU budget, and the time it takes."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from attnreg.fit.layer import Search, fit_one_layer
from experiments.benchmarks import peers
from experiments.benchmarks.cells import Cell, make_cell
from experiments.benchmarks.peers import Found, Peer, hunt
from experiments.benchmarks.peers.protocol import Method
from experiments.benchmarks.timing import Clock
from experiments.runner import distributed, figures
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "One-layer problems solved from many starts",
    "Random noiseless instances in X and Y: the share solved within a CPU budget, ours beside general solvers.",
    (
        Metric("solved", "share of instances that we solve, worst size", "higher", "ours.*.solved", "min"),
        Metric("cpu_seconds", "our median CPU seconds to a solution, largest size", "lower", "ours.*.cpu_seconds"),
    ),
)

OURS = "attnreg"
SHARED = "the runs, an instance with a method each"
# "reduced" peers minimise the loss with Y eliminated by a dense solve, which no library does by itself.
PEERS: dict[str, tuple[str, Callable[[], Peer]]] = {
    "scipy L-BFGS-B": ("one_layer", lambda: peers.scipy_lbfgs(20)),
    "scipy L-BFGS-B, reduced": ("one_layer_reduced", lambda: peers.scipy_lbfgs(20)),
    "optax L-BFGS": ("one_layer", lambda: peers.optax_lbfgs(20)),
    "optimistix L-BFGS": ("one_layer", peers.optimistix_lbfgs),
    "optimistix LM": ("one_layer", lambda: peers.optimistix_lm("QR")),
    "naive Newton": ("one_layer", peers.saddle_free_newton),
}
SUMMARY = ("n", "d", "method", "instances", "solved", "median_cpu", "over_ours")


def run(config: Any, record: Record) -> dict[str, Any]:
    """Ours on every instance of every cell, the peers on the first few; solution.npz is our fit of the least loss."""
    if unknown := set(config.peers) - set(PEERS):
        raise UsageError(f"config.peers has {unknown.pop()!r}; there are {', '.join(PEERS)}")
    clock, rows, skipped, best = Clock(), [], [], None
    units = list(_units(config))
    bound: dict[tuple, Method] = {}
    record.expect(len(units))
    here, processes = jax.process_index(), jax.process_count()
    for begin in range(0, len(units), processes):  # one unit a process, the same whoever takes it
        ours_now = units[begin + here : begin + here + 1]
        late = clock.wall > config.total_seconds
        found = None if late or not ours_now else _one(bound, config, *ours_now[0])
        for unit, result in zip(units[begin:], distributed.gather_all(found), strict=False):
            where = dict(zip(("n", "d", "instance", "method"), unit, strict=True))
            if result is None:
                skipped.append(where)
                continue
            rows.append(where | result.numbers)
            record.log(len(rows), **rows[-1])
            if where["method"] == OURS and (best is None or result.relative < best[0]):
                best = (result.relative, result.x)
    if best is not None:
        record.arrays("solution", **best[1]._asdict())
    summary = _summary(config, rows)
    _report(config, record, rows, summary, skipped)
    ours_of = {f"{r['n']},{r['d']}": r for r in summary if r["method"] == OURS}
    shares = {k: {"solved": r["solved"] / r["instances"], "cpu_seconds": r["median_cpu"]} for k, r in ours_of.items()}
    return {"runs": rows, "summary": summary, "not_run": skipped, "ours": shares}


def _units(config: Any) -> Iterator[tuple[int, int, int, str]]:
    """(n, d, instance, method) of every run, in the order of the table."""
    cells = config.cells if config.only < 0 else (config.cells[config.only],)
    for n, d, count, fewer in cells:
        named = [p for p in config.peers if n <= config.dense_n or p not in config.dense]
        for number in range(count):
            for name in (OURS, *(named if number < fewer else ())):
                yield n, d, number, name


def _one(bound: dict[tuple, Method], config: Any, n: int, d: int, number: int, name: str) -> Found:
    """One method on one instance; peers are bound, and so compiled, once a cell."""
    kind, make = PEERS.get(name, ("one_layer", None))
    cell = make_cell(f"{kind}-{n}-{d}", seed=config.seed + number)
    key, budget = jax.random.key(config.seed + config.first_key + number), dict(seconds=config.seconds, tol=config.tol)
    if make is None:
        found = ours(cell, key, **budget)
    else:
        if (n, d, name) not in bound:
            bound[n, d, name] = make().bind(cell)
        found = hunt(bound[n, d, name], cell, key, **budget)
    return found._replace(x=jax.tree.map(np.asarray, found.x))


def ours(cell: Cell, key: jax.Array, *, seconds: float, tol: float) -> Found:
    """`fit_one_layer` within `seconds` of CPU time; first compiled, its blind starts and its batches apart."""
    search: Any = Search(tol=tol)
    problem: Any = cell.problem
    for part in (search, dataclasses.replace(search, blind=0)):
        fit_one_layer(jax.random.fold_in(key, 1), problem, search=part, seconds=0.0, batches=1)
    clock = Clock()
    fit = fit_one_layer(key, problem, search=search, seconds=seconds, clock=time.process_time)
    return Found(fit.relative, fit.seconds, clock.wall, fit.batches, fit.params)


def _summary(config: Any, rows: list[dict]) -> list[dict]:
    """Solved instances, their median CPU seconds, and the median of a method's time over ours where both solve."""
    out = []
    solved = {(r["n"], r["d"], r["method"], r["instance"]): r["cpu"] for r in rows if r["relative"] <= config.tol}
    for n, d, name in sorted({(r["n"], r["d"], r["method"]) for r in rows}):
        count = sum((r["n"], r["d"], r["method"]) == (n, d, name) for r in rows)
        times = {i: cpu for (*where, i), cpu in solved.items() if where == [n, d, name]}
        ratios = [cpu / solved[n, d, OURS, i] for i, cpu in times.items() if (n, d, OURS, i) in solved]
        values = (n, d, name, count, len(times), _median(list(times.values())), _median(ratios))
        out.append(dict(zip(SUMMARY, values, strict=True)))
    return out


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _report(config: Any, record: Record, rows: list[dict], summary: list[dict], skipped: list[dict]) -> None:
    record.table("solved", SUMMARY, [[row[c] for c in SUMMARY] for row in summary])
    if skipped:
        record.say(f"{len(skipped)} of {len(skipped) + len(rows)} runs were left out: total_seconds was over")
    cells = sorted({(r["n"], r["d"]) for r in rows})
    figure, axes = figures.canvas(1, max(1, len(cells)))
    for panel, (n, d) in zip(axes[0], cells, strict=False):
        for i, name in enumerate(dict.fromkeys(r["method"] for r in rows)):
            mine = [r for r in rows if (r["n"], r["d"], r["method"]) == (n, d, name)]
            times = np.sort([r["cpu"] for r in mine if r["relative"] <= config.tol])
            if mine:
                steps = np.concatenate([[1e-3], times, [config.seconds]])
                heights = np.concatenate([[0], np.arange(1, len(times) + 1), [len(times)]]) / len(mine)
                style = dict(marker=figures.MARKERS[i % len(figures.MARKERS)], linewidth=2.4 if name == OURS else 1.2)
                solved = f"{name}: {len(times)} of {len(mine)}"
                panel.step(steps, heights, where="post", label=solved, markersize=3, **style)
        panel.set(xscale="log", xlabel="CPU seconds", ylabel="fraction solved", title=f"n = {n}, d = {d}")
        panel.set_ylim(-0.03, 1.05)
        panel.legend(fontsize=6, title="method: solved", title_fontsize=6)
    words = "Share of the instances that a method has solved after so many CPU seconds, a panel a size."
    record.figure("success", figure, caption=words)
