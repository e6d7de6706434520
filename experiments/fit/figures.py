"""Figures of a fit: the loss of every method over time and steps, on training and on held-out documents."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runner.figures import MARKERS, PALETTE, canvas

# Where the best loss is this small a part of the first one, the loss itself is drawn; else what is left above the best.
SMALL = 1e-2
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def convergence(curves: Curves, title: str, eps: float) -> Any:
    """Relative loss over seconds and over steps; each curve is (seconds, relative loss), `eps` that of its precision.

    Where the best loss stays large, as with noise, the gap above it is drawn, as far down as its rounding; points
    below that are left out, not drawn at a floor.
    """
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    best = min(float(np.nanmin(loss)) for _, loss in curves.values())
    first = max(float(loss[0]) for _, loss in curves.values())
    gap = best > SMALL * first
    for i, (name, (seconds, loss)) in enumerate(curves.items()):
        left = np.where(loss - best > eps * best, loss - best, np.nan) if gap else loss
        _line(axes[0, 0], i, seconds, left, f"{name}: {loss[-1]:.4g}")
        _line(axes[0, 1], i, np.arange(len(loss)), left, name)
    for axis, label in zip(axes[0], ("seconds, compilation apart", "steps"), strict=True):
        axis.set(yscale="log", xlabel=label)
        axis.set_xscale("symlog", linthresh=10 if label == "steps" else _short(axis))
        axis.set_xlim(left=0)
    axes[0, 0].set_ylabel(f"relative loss − {best:.4g}, the best" if gap else "relative loss")
    axes[0, 0].legend(title="method: loss at its end", title_fontsize=7, fontsize=7)
    figure.suptitle(f"{title}: best loss {best:.4g}", fontsize=9)
    return figure


def heldout_over_time(curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str) -> Any:
    """Training and held-out relative loss over seconds; each curve is (seconds, training, heldout)."""
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    for i, (name, (seconds, *losses)) in enumerate(curves.items()):
        for axis, loss in zip(axes[0], losses, strict=True):
            _line(axis, i, seconds, loss, f"{name}: {loss[-1]:.4g}")
    for axis, label in zip(axes[0], ("training", "held-out"), strict=True):
        axis.set(yscale="log", xlabel="seconds, compilation apart", title=f"{label} relative loss")
        axis.set_xscale("symlog", linthresh=_short(axis))
        axis.set_xlim(left=0)
        axis.legend(title="method: loss at its end", title_fontsize=7, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def _short(axis: Any) -> float:
    """Seconds up to which an axis is linear: a hundredth of what it shows, and never less than a step can take."""
    return max(axis.dataLim.x1 / 100, 0.03)


def _line(axis: Any, i: int, x: Any, y: Any, label: str) -> None:
    style = dict(color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], markersize=3.5)
    axis.plot(x, y, label=label, markevery=max(len(x) // 12, 1), **style)
