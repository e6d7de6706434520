"""Figures of the in-context-learning experiments."""

from typing import Any

import numpy as np

from attnreg.icl.metrics import bootstrap_band
from experiments.icl.arms import Arm, label
from experiments.runner.figures import PALETTE, canvas
from experiments.runner.record import Record

LEVEL = 0.9
_PANELS = (
    ("loss", "loss on fresh documents"),
    ("gd/cosine", "cosine of sensitivities"),
    ("gd/prediction_difference", "prediction difference"),
    ("gd/sensitivity_difference", "sensitivity difference"),
)


def _band(axes: Any, x: Any, runs: Any, *, label: str, color: str, style: str = "-") -> None:
    mean, low, high = bootstrap_band(np.asarray(runs, dtype=float), level=LEVEL)
    axes.plot(x, mean, style, color=color, label=label)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def curves(arms: tuple[Arm, ...], result: dict[str, Any], config: Any, record: Record) -> None:
    """Loss and the three measures of closeness over training, one colour a group of seeds, 90% bootstrap bands."""
    figure, axes = canvas(2, 2)
    same_task = len({arm.task for arm in arms}) == 1 and len({arm.model.depth for arm in arms}) == 1
    learners = [(arm, result["arms"][arm.name], g) for arm in arms for g in result["arms"][arm.name]["groups"]]
    for (name, title), panel in zip(_PANELS, axes.flat, strict=True):
        panel.set(title=title, xlabel="training step")
        for i, (arm, r, group) in enumerate(learners):
            runs, color = np.asarray(r["curves"][name])[r["groups"][group]], PALETTE[i % len(PALETTE)]
            if len(arms) <= 3:
                panel.plot(r["steps"], runs.T, color=color, lw=0.5, alpha=0.5)
            _band(panel, r["steps"], runs, label=label(arm.series if same_task else arm.name, group), color=color)
            if name == "gd/cosine" and arm.plus:
                plus = np.asarray(r["curves"]["gd_plus/cosine"])[r["groups"][group]]
                panel.plot(r["steps"], plus.mean(0), ":", color=color, label=f"{arm.name}, to GD++")
            if name == "loss" and (i == 0 or not same_task):
                shade = "black" if same_task else color
                text = "gradient descent" if i == 0 else None
                panel.axhline(r["curve_references"]["gd"], color=shade, ls="--", lw=1, label=text)
            if name == "loss" and "interpolated_loss" in r["curves"] and len(arms) <= 2 and group != "stuck":
                mean = bootstrap_band(np.asarray(r["curves"]["interpolated_loss"])[r["groups"][group]])[0]
                panel.plot(r["steps"], mean, ":", color=color)
    references = [r["curve_references"] for _, r, _ in learners]
    best = min(min(np.nanmin(r["curves"]["loss"]), r["curve_references"]["gd"]) for _, r, _ in learners)
    axes[0, 0].set_ylim(0.9 * best, 1.1 * max(max(r["zero"], r["gd"]) for r in references))
    axes[0, 1].set_ylim(top=1.02)
    axes[0, 0].legend(fontsize=6, title="dotted: interpolated weights" if len(arms) <= 2 else None, title_fontsize=6)
    axes[0, 1].legend(fontsize=6)
    record.figure("curves", figure)


def chart(arms: tuple[Arm, ...], result: dict[str, Any], config: Any, record: Record) -> None:
    """Final loss and cosine against the arms' x, one line a series and group of seeds, with the references."""
    figure, (panels,) = canvas(1, 2)
    entries = [result["arms"][arm.name] for arm in arms]
    every = list(dict.fromkeys((r["series"], group) for r in entries for group in r["groups"]))
    lines = [line for line in every if line[1] != "stuck"] or every
    for i, (series, group) in enumerate(lines):
        members = sorted((r for r in entries if r["series"] == series and group in r["mean"]), key=lambda r: r["x"])
        x, color = [r["x"] for r in members], PALETTE[i % len(PALETTE)]
        for panel, metric in zip(panels, ("loss", "gd/cosine"), strict=True):
            mean, low, high = np.array([r["mean"][group][metric] for r in members]).T
            error = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
            panel.errorbar(x, mean, error, fmt="o-", ms=3, capsize=2, color=color, label=label(series, group))
        plus = [
            (r["x"], r["mean"][group]["gd_plus/cosine"][0]) for r in members if "gd_plus/cosine" in r["mean"][group]
        ]
        if plus:
            panels[1].plot(*zip(*plus, strict=True), "s:", ms=3, color=color, label=f"{series}, to GD++")
    styles = (
        ("gd", "--", "gradient descent"),
        ("gd_plus", "-.", "GD++"),
        ("zero", ":", "zero"),
        ("best", "-", "ridge"),
    )
    for key, style, text in styles:
        for series in dict.fromkeys(r["series"] for r in entries):
            chosen = [r for r in entries if r["series"] == series and key in r["references"]]
            points = sorted((r["x"], r["references"][key]) for r in chosen)
            if not points or (key == "best" and max(p[1] for p in points) < 1e-3):
                continue
            panels[0].plot(*zip(*points, strict=True), style, color="black", lw=1, label=text)
            if key != "gd_plus":  # the other references do not depend on the series
                break
            text = None
    panels[0].set(xlabel=config.chart, title="final loss")
    panels[1].set(xlabel=config.chart, title="cosine with gradient descent")
    for panel in panels:
        panel.legend(fontsize=6)
    record.figure("chart", figure)


def curvature(step: Any, learners: dict[str, Any], record: Record) -> None:
    """Each learner's mean logit, and its spread, against the logit of the gradient step."""
    figure, ((panel, spread),) = canvas(1, 2)
    z = np.asarray(step, dtype=float).ravel()
    edges = np.quantile(z, np.linspace(0.002, 0.998, 41))
    place = np.digitize(z, edges)
    inner = range(1, len(edges))
    centre = np.array([z[place == i].mean() for i in inner])
    panel.plot(centre, centre, "--", color="black", lw=1, label="gradient step")
    for color, (name, logits) in zip(PALETTE, learners.items(), strict=False):
        l = np.asarray(logits, dtype=float).ravel()
        panel.plot(centre, [l[place == i].mean() for i in inner], color=color, label=name)
        spread.plot(centre, [l[place == i].std() for i in inner], color=color, label=name)
    panel.set(xlabel="logit of the gradient step", ylabel="mean logit", title="curvature of the learned step")
    spread.set(xlabel="logit of the gradient step", ylabel="standard deviation", title="what the step does not decide")
    panel.legend(fontsize=6)
    record.figure("curvature", figure)


def shifts(result: dict[str, Any], config: Any, record: Record) -> None:
    """Loss along each axis of shift: trained (mean and 90% band over seeds), gradient descent, ridge."""
    axes_of = list(config.shifts)
    figure, panels = canvas(len(result), len(axes_of), width=2.6, height=2.3)
    for row, (arm, found) in zip(panels, result.items(), strict=True):
        for panel, axis in zip(row, axes_of, strict=True):
            points = found[axis]
            numeric = not isinstance(points[0]["value"], str)
            x = [p["value"] for p in points] if numeric else range(len(points))
            runs = np.stack([p["trained"] for p in points], axis=1)
            if numeric:
                _band(panel, x, runs, label="trained", color=PALETTE[0])
            else:
                panel.errorbar(x, runs.mean(0), runs.std(0), fmt="o", color=PALETTE[0], label="trained")
                panel.set_xticks(list(x), [p["value"] for p in points], rotation=20)
            for name, style, color in (("gd", "--", PALETTE[1]), ("zero", ":", "gray")):
                panel.plot(x, [p[name] for p in points], style if numeric else "_", ms=14, color=color, label=name)
            panel.set(title=f"{arm}: {axis}", yscale="log")
    panels[0, 0].legend(fontsize=6)
    record.figure("shifts", figure)


def real(result: dict[str, Any], config: Any, record: Record) -> None:
    """Loss on documents with real targets, one bar a learner."""
    figure, panels = canvas(len(result), 1, width=6.5, height=2.2)
    for panel, (arm, losses) in zip(panels[:, 0], result.items(), strict=True):
        values = [np.asarray(v, dtype=float) for v in losses.values()]
        colors = [PALETTE[0] if name.startswith("trained") else PALETTE[5] for name in losses]
        panel.barh(range(len(values)), [v.mean() for v in values], xerr=[v.std() for v in values], color=colors)
        panel.set_yticks(range(len(values)), list(losses), fontsize=6)
        panel.invert_yaxis()
        panel.set(title=f"{arm}: loss on real documents ({config.rows})")
    record.figure("real", figure)
