"""What a recovery leaves: the runs, when they were how good, and what was recovered of the true weights."""

import math
from typing import Any

import numpy as np

from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.fit import HeadComparison, compare_layers
from attnreg.fit.layer_fit import LAYER_UNIT, MAP_UNIT, Determined
from attnreg.problems.layer import LayerWeights
from experiments.benchmarks.large_instance import peak_bytes
from experiments.recover.data import Activations
from experiments.recover.jobs import ADAM, OURS, Run
from experiments.runner import figures
from experiments.runner.record import Record

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
MARKS = {"maps": "o", "outputs": "s"}
FOUND = 0.99  # cosine of centred logits from which a head counts as found


def report(record: Record, data: Activations, runs: list[Run], best: LayerWeights, targets: str) -> dict[str, Any]:
    """Tables, figures and the content of result.json; `best` are the weights of the first run of ours."""
    main = next(run for run in runs if run.job.method == OURS)
    named = {name: W for name, W in best._asdict().items() if W is not None}
    record.arrays("solution", **{name: W for name, W in named.items() if targets == "outputs" or name in "QK"})
    heads = () if data.true is None else compare_layers(_comparable(best), data.true, data.test, **data.logits)
    known = Determined(*main.determined)
    last = int(np.argmin(np.where(np.isfinite(main.curve[:, 3]), main.curve[:, 3], np.inf)))
    result = {
        "title": data.title,
        "targets": targets,
        "unit": LAYER_UNIT if targets == "outputs" else MAP_UNIT,
        "train": float(main.curve[last, 2]),
        "heldout": main.heldout,
        "test": test_loss(data, best, targets),
        "seconds": float(main.curve[-1, 0]),
        "cpu_seconds": float(main.curve[-1, 1]),
        "reason": main.reason,
        "reached": _levels(main),
        "cpu_reached": _levels(main, "cpu"),
        "determined": known._asdict(),
        "peak_gigabytes": peak_bytes() / 1e9,
    }
    if heads:
        result["heads_found"] = sum(head.cosine > FOUND for head in heads)
        result["least_cosine"] = min(head.cosine for head in heads)
        result["largest_distance"] = max(head.distance for head in heads)
    if any(run.job.method == ADAM for run in runs):
        result["peer"] = peer(runs)
        result["behind_peer_until"] = behind_until(main, [run for run in runs if run.job.method == ADAM])
    _tables(record, runs, heads, targets, result, known)
    rounds = len({run.job.seed for run in runs if run.job.part == "round"})
    words = f"Best held-out loss so far over seconds, {rounds} seeds; ours with compilation, the peer's tuning thin."
    record.figure("heldout", heldout_over_time(runs, data.title, result["unit"]), caption=words)
    if any(run.job.part == "texts" for run in runs):
        words = "Held-out loss against the number of training texts, one fit a point."
        record.figure("texts", over_texts(runs, data.title), caption=words)
    return result


def peer(runs: list[Run]) -> dict[str, Any]:
    """The tuned peer: the best of its rounds, and what finding its setting took."""
    rounds = [run for run in runs if (run.job.method, run.job.part) == (ADAM, "round")]
    tuning = [run for run in runs if run.job.part == "tuning"]
    best = min(rounds, key=lambda run: run.heldout)
    return {
        "learning_rate": best.job.rate,
        "scale": best.job.scale,
        "steps": best.job.steps,
        "heldout": best.heldout,
        "seconds": float(best.curve[-1, 0]),
        "cpu_seconds": float(best.curve[-1, 1]),
        "compile_seconds": max(run.compile_seconds for run in tuning + rounds),
        "tuning_seconds": float(sum(run.curve[-1, 0] for run in tuning)),
        "reached": _levels(best),
    }


def behind_until(ours: Run, peers: list[Run]) -> float:
    """The last second at which some run of the peer had a lower held-out loss so far than ours; 0 if there is none."""
    mine, theirs = _steps(ours), [_steps(run) for run in peers]
    times = np.unique(np.concatenate([seconds for seconds, _ in (mine, *theirs)]))
    best = np.min([_at(times, *curve) for curve in theirs], axis=0)
    behind = _at(times, *mine) > best
    if not behind.any():
        return 0.0
    last = int(np.flatnonzero(behind)[-1])
    return float(times[last + 1]) if last + 1 < len(times) else math.inf


def _steps(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Seconds, and the best held-out loss so far."""
    return run.curve[:, 0], np.fmin.accumulate(run.curve[:, 3])


def _at(times: np.ndarray, seconds: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The loss at other times, infinite before the first."""
    index = np.searchsorted(seconds, times, side="right") - 1
    return np.where(index < 0, np.inf, losses[np.maximum(index, 0)])


def test_loss(data: Activations, weights: LayerWeights, targets: str) -> float:
    """The loss on texts that decided nothing."""
    A, B = data.targets(targets, "test")
    B = np.asarray(B, np.float64)
    if targets == "maps":
        return float(np.sum((layer_maps(weights, A, **data.logits) - B) ** 2) / np.sum(B**2))
    return float(np.sum((layer_outputs(weights, A, **data.logits) - B) ** 2) / np.sum((B - B.mean(axis=(0, 1))) ** 2))


def behind_token_0(true: np.ndarray, fitted: np.ndarray) -> dict[str, float]:
    """The mean mass on token 0 of maps (k, n, n), and the error of what they are without it, rows normed anew.

    A sink on token 0 is most of the squared norm of such maps: their loss says little about the rest of a row.
    """
    rest = [
        maps[:, 2:, 1:] / np.maximum(maps[:, 2:, 1:].sum(axis=-1, keepdims=True), 1e-300) for maps in (true, fitted)
    ]
    error = np.sum((rest[1] - rest[0]) ** 2) / np.sum(rest[0] ** 2)
    return {"mass_on_token_0": float(np.mean(true[:, 1:, 0])), "without_token_0": float(error)}


def _levels(run: Run, clock: str = "seconds") -> dict[str, float | None]:
    """Seconds to each held-out loss that was reached."""
    return {f"{level:.0e}": run.reached(level, clock) for level in LEVELS}


def _comparable(weights: LayerWeights) -> LayerWeights:
    """Maps say nothing of the values: they are compared as zeros."""
    return weights._replace(V=np.nan_to_num(weights.V))


def _tables(
    record: Record,
    runs: list[Run],
    heads: tuple[HeadComparison, ...],
    targets: str,
    result: dict[str, Any],
    known: Determined,
) -> None:
    columns = ["method", "part", "targets", "documents", "seed", "rate", "scale", "heldout", "seconds", "cpu"]
    rows = []
    for run in runs:
        job, end = run.job, run.curve[-1]
        rate, scale = (job.rate, job.scale) if job.method == ADAM else (None, None)
        what = [job.method, job.part, job.targets, job.documents, job.seed, rate, scale]
        rows.append([*what, run.heldout, end[0], end[1]])
    record.table("runs", columns, rows)
    rounds = [run for run in runs if run.job.part == "round"]
    record.table(
        "seconds_to",
        ["method", "seed", "steps", *(f"{level:.0e}" for level in LEVELS)],
        [[run.job.method, run.job.seed, run.job.steps or None, *_levels(run).values()] for run in rounds],
    )
    fields = [name for name in HeadComparison._fields if targets == "outputs" or name != "values"]
    if heads:
        record.table("recovered", fields, [[getattr(head, name) for name in fields] for head in heads])
    lines = [
        ("held-out loss, texts that decide when to stop", result["heldout"]),
        ("test loss, texts that decide nothing", result["test"]),
        ("training loss", result["train"]),
        ("unit of losses", result["unit"]),
        ("seconds, compilation included", result["seconds"]),
        ("ended by", result["reason"]),
        ("determined", known.describe()),
    ]
    if heads:
        lines.append((f"heads found (cosine of logits above {FOUND})", f"{result['heads_found']} of {len(heads)}"))
    if "peer" in result:
        best = result["peer"]
        lines.append(("best tuned Adam, held out", best["heldout"]))
        lines.append(
            ("its rate, scale, seconds", f"{best['learning_rate']:g}, {best['scale']:g}, {best['seconds']:.3g}")
        )
        lines.append(("seconds of tuning it", best["tuning_seconds"]))
        lines.append(("ours behind some Adam until second", result["behind_peer_until"]))
    record.table("summary", ("what", "value"), lines)


def heldout_over_time(runs: list[Run], title: str, unit: str) -> Any:
    """Best held-out loss so far over seconds: ours with compilation, the peer's rounds, and thin its tuning."""
    figure, axes = figures.canvas(width=5.4, height=3.6)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in (run for run in runs if run.job.part != "texts"):
        groups.setdefault((run.job.method, run.job.part), []).append(run)
    for (method, part), members in groups.items():
        best, place, thin = min(run.heldout for run in members), int(method != OURS), part == "tuning"
        label = f"{method}{', tuning' if thin else ''} ({len(members)}): best {best:.2g}"
        for i, run in enumerate(members):
            seconds, losses = _steps(run)
            axes[0, 0].step(
                seconds, losses, where="post", color=figures.PALETTE[place], alpha=0.25 if thin else 1.0,
                linewidth=0.7 if thin else 1.6, label=label if i == 0 else None,
                marker=None if thin else figures.MARKERS[place], markersize=3.5, markevery=max(len(seconds) // 10, 1),
            )  # fmt: skip
    axes[0, 0].set(xscale="log", yscale="log", xlabel="seconds", ylabel="held-out loss, best so far")
    axes[0, 0].set_title(f"{title}\n{unit}", fontsize=7)
    axes[0, 0].legend(fontsize=7)
    return figure


def over_texts(runs: list[Run], title: str) -> Any:
    """Held-out loss against the number of training texts, for maps and for outputs."""
    figure, axes = figures.canvas(width=4.6, height=3.2)
    mine = [run for run in runs if run.job.part == "texts"]
    for kind in dict.fromkeys(run.job.targets for run in mine):
        points = sorted((run.job.documents, run.heldout) for run in mine if run.job.targets == kind)
        axes[0, 0].loglog(*zip(*points, strict=True), f"{MARKS[kind]}-", label=kind)
    axes[0, 0].set(xlabel="texts", ylabel="held-out loss", title=", ".join(title.split(", ")[:2]))
    axes[0, 0].legend()
    return figure
