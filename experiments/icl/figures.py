"""Figures of the in-context-learning experiments."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.icl.arms import label
from experiments.icl.runs import Run
from experiments.runner.figures import MARKERS, PALETTE, band, canvas
from experiments.runner.record import Record
from experiments.runner.statistics import bootstrap_band

LEVEL = 0.9
_PANELS = (
    ("loss", "loss on fresh documents"),
    ("gd/cosine", "cosine of sensitivities"),
    ("gd/prediction_difference", "prediction difference"),
    ("gd/sensitivity_difference", "sensitivity difference"),
)
_STYLES = (
    ("gd", "--", "gradient descent"),
    ("gd_plus", "-.", "GD++"),
    ("newton", ":x", "Newton"),
    ("zero", ":", "zero"),
    ("best", "-", "ridge"),
)


def curves(runs: Sequence[Run], record: Record) -> None:
    """Loss and the three measures of closeness over training, one colour a group of seeds, 90% bootstrap bands."""
    figure, axes = canvas(2, 2)
    same_task = len({run.arm.task for run in runs}) == 1 and len({run.arm.model.depth for run in runs}) == 1
    learners = [(run, group) for run in runs for group in run.groups]
    for (name, title), panel in zip(_PANELS, axes.flat, strict=True):
        panel.set(title=title, xlabel="training step")
        for i, (run, group) in enumerate(learners):
            color, seeds = PALETTE[i % len(PALETTE)], run.groups[group]
            values, text = run.curves[name][seeds], label(run.arm.series if same_task else run.arm.name, group)
            if len(runs) <= 3:
                panel.plot(run.steps, values.T, color=color, lw=0.5, alpha=0.5)
            mark = MARKERS[i % len(MARKERS)]
            band(panel, run.steps, values, label=text, color=color, level=LEVEL, marker=mark)
            if name == "gd/cosine" and run.arm.plus:
                plus = run.curves["gd_plus/cosine"][seeds]
                panel.plot(run.steps, plus.mean(0), ":", color=color, label=f"{run.arm.name}, to GD++")
    _loss_references(axes[0, 0], learners, same_task, few=len(runs) <= 2)
    axes[0, 1].set_ylim(top=1.02)
    axes[0, 1].legend(fontsize=6)
    seeds = max(len(run.stopped) for run in runs)
    words = f"Means over {seeds} seeds in training with their 90% bootstrap band, on documents that none has seen."
    record.figure("curves", figure, caption=words)


def _loss_references(panel: Any, learners: Sequence[tuple[Run, str]], same_task: bool, *, few: bool) -> None:
    """Gradient descent's loss and, for one or two arms, that of the interpolated weights; limits and legend."""
    for i, (run, group) in enumerate(learners):
        color = PALETTE[i % len(PALETTE)]
        if i == 0 or not same_task:
            shade, text = "black" if same_task else color, "gradient descent" if i == 0 else None
            panel.axhline(run.curve_losses["gd"], color=shade, ls="--", lw=1, label=text)
        if few and "interpolated_loss" in run.curves and group != "stuck":
            mean = bootstrap_band(run.curves["interpolated_loss"][run.groups[group]])[0]
            panel.plot(run.steps, mean, ":", color=color, label=f"{label(run.arm.name, group)}, interpolated weights")
    best = min(min(np.nanmin(run.curves["loss"]), run.curve_losses["gd"]) for run, _ in learners)
    panel.set_ylim(0.9 * best, 1.1 * max(max(run.curve_losses["zero"], run.curve_losses["gd"]) for run, _ in learners))
    panel.legend(fontsize=6)


def chart(runs: Sequence[Run], xlabel: str, record: Record) -> None:
    """Final loss and cosine against the arms' x, one line a series and group of seeds, with the references."""
    figure, (panels,) = canvas(1, 2)
    every = list(dict.fromkeys((run.arm.series, group) for run in runs for group in run.groups))
    lines = [line for line in every if line[1] != "stuck"] or every
    for i, (series, group) in enumerate(lines):
        chosen = [run for run in runs if run.arm.series == series and group in run.groups]
        members = sorted(chosen, key=lambda run: run.arm.x)
        x, color = [run.arm.x for run in members], PALETTE[i % len(PALETTE)]
        for panel, metric in zip(panels, ("loss", "gd/cosine"), strict=True):
            mean, low, high = np.array([run.band[group][metric] for run in members]).T
            error = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
            mark = f"{MARKERS[i % len(MARKERS)]}-"
            panel.errorbar(x, mean, error, fmt=mark, ms=3.5, capsize=2, color=color, label=label(series, group))
        plus = [(run.arm.x, run.band[group]["gd_plus/cosine"][0]) for run in members if run.arm.plus]
        if plus:
            panels[1].plot(*zip(*plus, strict=True), "s:", ms=3, color=color, label=f"{series}, to GD++")
    _chart_references(panels[0], runs)
    panels[0].set(xlabel=xlabel, title="final loss")
    panels[1].set(xlabel=xlabel, title="cosine with gradient descent")
    for panel in panels:
        panel.legend(fontsize=6)
    seeds = max(len(run.stopped) for run in runs)
    words = f"Final loss and cosine against {xlabel}: means over at most {seeds} seeds with 90% bootstrap bars."
    record.figure("chart", figure, caption=words)


def _chart_references(panel: Any, runs: Sequence[Run]) -> None:
    for key, style, text in _STYLES:
        shown: str | None = text
        for series in dict.fromkeys(run.arm.series for run in runs):
            chosen = [run for run in runs if run.arm.series == series and key in run.losses]
            points = sorted((run.arm.x, run.losses[key]) for run in chosen)
            if not points or (key == "best" and max(p[1] for p in points) < 1e-3):
                continue
            panel.plot(*zip(*points, strict=True), style, color="black", lw=1, label=shown)
            if key != "gd_plus":  # the other references do not depend on the series
                break
            shown = None


def curvature(step: Any, learners: dict[str, Any], record: Record) -> None:
    """Each learner's mean logit, and its spread, against the logit of the gradient step."""
    figure, ((panel, spread),) = canvas(1, 2)
    z = np.asarray(step, dtype=float).ravel()
    edges = np.quantile(z, np.linspace(0.002, 0.998, 41))
    place = np.digitize(z, edges)
    inner = range(1, len(edges))
    centre = np.array([z[place == i].mean() for i in inner])
    panel.plot(centre, centre, "--", color="black", lw=1, label="gradient step")
    for color, mark, (name, logits) in zip(PALETTE, MARKERS, learners.items(), strict=False):
        l = np.asarray(logits, dtype=float).ravel()
        panel.plot(centre, [l[place == i].mean() for i in inner], color=color, label=name,
                   marker=mark, ms=3, markevery=4)  # fmt: skip
        spread.plot(centre, [l[place == i].std() for i in inner], color=color, label=name,
                    marker=mark, ms=3, markevery=4)  # fmt: skip
    panel.set(xlabel="logit of the gradient step", ylabel="mean logit", title="curvature of the learned step")
    spread.set(xlabel="logit of the gradient step", ylabel="standard deviation", title="what the step does not decide")
    panel.legend(fontsize=6)
    words = "Mean logit of each learner, and its spread, where the gradient step has the logit along x; one seed each."
    record.figure("curvature", figure, caption=words)


def shifts(result: dict[str, Any], record: Record) -> None:
    """Loss along each axis of shift: trained (mean and 90% band over seeds), gradient descent, ridge."""
    axes_of = list(next(iter(result.values())))
    figure, panels = canvas(len(result), len(axes_of), width=2.6, height=2.3)
    for row, (arm, found) in zip(panels, result.items(), strict=True):
        for panel, axis in zip(row, axes_of, strict=True):
            points = found[axis]
            numeric = not isinstance(points[0]["value"], str)
            x = [p["value"] for p in points] if numeric else range(len(points))
            runs = np.stack([p["trained"] for p in points], axis=1)
            if numeric:
                band(panel, x, runs, label="trained", color=PALETTE[0], level=LEVEL)
            else:
                panel.errorbar(x, runs.mean(0), runs.std(0), fmt="o", color=PALETTE[0], label="trained")
                panel.set_xticks(list(x), [p["value"] for p in points], rotation=20)
            for name, style, color in (("gd", "--", PALETTE[1]), ("zero", ":", "gray")):
                panel.plot(x, [p[name] for p in points], style if numeric else "_", ms=14, color=color, label=name)
            panel.set(title=f"{arm}: {axis}", yscale="log")
    panels[0, 0].legend(fontsize=6)
    words = "Loss off the training distribution: the mean over seeds with its 90% band, and gradient descent."
    record.figure("shifts", figure, caption=words)


def real(result: dict[str, Any], table: str, record: Record) -> None:
    """Loss on documents with real targets, one bar a learner."""
    figure, panels = canvas(len(result), 1, width=6.5, height=2.2)
    for panel, (arm, losses) in zip(panels[:, 0], result.items(), strict=True):
        values = [np.asarray(v, dtype=float) for v in losses.values()]
        colors = [PALETTE[0] if name.startswith("trained") else PALETTE[5] for name in losses]
        panel.barh(range(len(values)), [v.mean() for v in values], xerr=[v.std() for v in values], color=colors)
        panel.set_yticks(range(len(values)), list(losses), fontsize=6)
        panel.invert_yaxis()
        panel.set(title=f"{arm}: loss on real documents ({table})")
    record.figure("real", figure, caption="Loss on documents with real targets: mean and deviation over seeds.")
