"""Solvers against existing ones: time to the same gradient tolerance, interleaved, and who finds the good minimum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.cells import Cell, make_cell
from experiments.benchmarks.own_solvers import OURS, own_methods
from experiments.benchmarks.peers import Contender, Outcome, Prepared, contender, peers
from experiments.benchmarks.timing import Samples, interleave, paired_ratio
from experiments.runner.about import HIGHER, About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "Time to solution, beside other libraries",
    "Our solvers and peers run in turn to the same gradient, on problems that both can solve.",
    (
        Metric("over_ours", "wall time of the best peer over ours, worst cell", HIGHER, "summary.*.over_ours", "min"),
        Metric("cpu_over_ours", "the same in CPU time", HIGHER, "summary.*.cpu_over_ours", "min"),
    ),
)

COLUMNS = (
    "cell", "method", "setting", "wall_s", "least_s", "cpu_s", "evaluations",
    "loss", "gradient", "best", "runs", "note",
)  # fmt: skip
SUMMARY = ("cell", "ours", "best_peer", "over_ours", "cpu_over_ours", "ours_s", "peer_s", "peers_at_best")


class Entry(NamedTuple):
    """One method on one cell. loss and gradient are relative to the start, recomputed here by autodiff."""

    contender: Contender
    prepared: Prepared
    outcome: Outcome | None
    loss: float
    gradient: float
    samples: Samples | None = None


def run(config: Any, record: Record) -> dict[str, Any]:
    """Time all chosen methods on all chosen cells; then count good minima over random instances."""
    rows, summary, basins = [], [], []
    for name in config.cells:
        cell = make_cell(name, seed=config.seed)
        entries = measure(cell, chosen(config.methods), config, record)
        rows += [row(cell, entry, entries) for entry in entries]
        summary.append(summarise(cell, entries))
        record.say(f"{name}: " + ", ".join(f"{k} {v}" for k, v in zip(SUMMARY[1:], summary[-1][1:], strict=True)))
        jax.clear_caches()
    for name in config.basins.cells:
        basins += count_basins(name, chosen(config.methods), config, record)
    record.table("methods", COLUMNS, rows)
    record.table("summary", SUMMARY, summary)
    record.table("good_minima", ("cell", "method", "setting", "best_known", "instances", "worst_loss"), basins)
    return {
        "methods": [dict(zip(COLUMNS, line, strict=True)) for line in rows],
        "summary": [dict(zip(SUMMARY, line, strict=True)) for line in summary],
        "good_minima": [list(line) for line in basins],
    }


def chosen(parts: tuple[str, ...]) -> list[Contender]:
    """Our solvers and the peers whose "name (setting)" contains one of `parts`; () takes all."""
    found = [*own_methods(), *(contender(peer) for peer in peers())]
    kept = [c for c in found if not parts or any(part in c.label for part in parts)]
    if not kept:
        raise UsageError(
            f"config.methods is {parts!r} and matches none of {', '.join(sorted({c.name for c in found}))}"
        )
    return kept


def solve(cell: Cell, method: Contender, tol: float, seconds: float) -> Entry:
    """Prepare a method, run it once, and judge the point by autodiff of the plain loss."""
    try:
        prepared = method.prepare(cell, tol, seconds)
    except (RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
        prepared = Prepared(None, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    if prepared.run is None:
        return Entry(method, prepared, None, float("nan"), float("nan"))
    outcome = prepared.run()
    judge = jax.value_and_grad(cell.loss)
    (start, g0), (end, g) = judge(cell.x0, cell.data), judge(jnp.reshape(outcome.x, cell.x0.shape), cell.data)
    return Entry(method, prepared, outcome, float(end / start), float(jnp.linalg.norm(g) / jnp.linalg.norm(g0)))


def measure(cell: Cell, methods: list[Contender], config: Any, record: Record) -> list[Entry]:
    """All methods on a cell: solved once, then the ones that converged timed in turns."""
    entries = []
    for method in methods:
        entry = solve(cell, method, config.tol, config.seconds)
        entries.append(entry)
        said = entry.prepared.reason or f"loss {entry.loss:.4e} gradient {entry.gradient:.1e} {evaluations(entry)}"
        record.say(f"{cell.name}  {entry.contender.label}: {said}")
    runs = {str(i): entry.prepared.run for i, entry in enumerate(entries) if entry.prepared.run is not None}
    samples = interleave(
        runs, rounds=config.rounds, seconds=config.seconds_per_method, least=config.least_rounds, warm=0
    )
    return [entry._replace(samples=samples.get(str(i))) for i, entry in enumerate(entries)]


def best_loss(entries: list[Entry]) -> float:
    """The lowest loss any method reached."""
    return min((entry.loss for entry in entries if np.isfinite(entry.loss)), default=float("nan"))


def at_best(entry: Entry, best: float) -> bool:
    """Whether a method's point is the best known minimum (relative 1e-6)."""
    return bool(entry.loss <= best * (1 + 1e-6) + 1e-25)


def evaluations(entry: Entry) -> str:
    """Evaluation counts as text."""
    counts = {} if entry.outcome is None else {k: int(v) for k, v in entry.outcome.evaluations.items()}
    return " ".join(f"{k}={v}" for k, v in counts.items() if v)


def row(cell: Cell, entry: Entry, entries: list[Entry]) -> tuple:
    """A line of the methods table."""
    s = entry.samples
    times = (s.median, s.fastest, s.median_cpu) if s else ("", "", "")
    best = at_best(entry, best_loss(entries))
    return (
        cell.name, entry.contender.name, entry.contender.setting, *times, evaluations(entry),
        entry.loss, entry.gradient, best, len(s.wall) if s else 0, entry.prepared.reason,
    )  # fmt: skip


def summarise(cell: Cell, entries: list[Entry]) -> tuple:
    """Our fastest and the fastest peer among those at the best minimum, and its time over ours, paired."""
    best = best_loss(entries)
    good = [entry for entry in entries if entry.samples is not None and at_best(entry, best)]

    def fastest(group: list[Entry]) -> Entry | None:
        return min(group, key=lambda e: e.samples.median if e.samples else np.inf, default=None)

    ours = fastest([e for e in good if e.contender.name.startswith(OURS)])
    theirs = [e for e in good if not e.contender.name.startswith(OURS)]
    peer = fastest(theirs)
    if ours is None or peer is None or ours.samples is None or peer.samples is None:
        named = (entry.contender.label if entry else "none" for entry in (ours, peer))
        return (cell.name, *named, "", "", "", "", len(theirs))
    a, b = ours.samples, peer.samples
    ratios = (paired_ratio(b, a), paired_ratio(b, a, cpu=True))
    return (cell.name, ours.contender.label, peer.contender.label, *ratios, a.median, b.median, len(theirs))


def count_basins(name: str, methods: list[Contender], config: Any, record: Record) -> list[tuple]:
    """How many of the random instances each method brings to the best minimum that any method knows."""
    instances, bests = [], []
    for seed in range(config.basins.instances):
        cell = make_cell(name, seed=config.seed + seed)
        instances.append([solve(cell, method, config.tol, config.basins.seconds) for method in methods])
        bests.append(best_loss(instances[-1]))
        record.say(f"{name} instance {seed}: best loss {bests[-1]:.3e}")
    rows = []
    for method, found in zip(methods, zip(*instances, strict=True), strict=True):
        hits = sum(at_best(entry, best) for entry, best in zip(found, bests, strict=True))
        rows.append((name, method.name, method.setting, hits, len(bests), max(entry.loss for entry in found)))
    return rows
