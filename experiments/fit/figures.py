"""Figures of a fit: true and fitted maps with their difference, and the loss of every method over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runner.figures import PALETTE, canvas, heatmap

# More token labels than this cannot be read.
MOST_LABELS = 64


def maps(true: np.ndarray, fitted: np.ndarray, labels: tuple[str, ...] | None, title: str) -> Any:
    """True map, fitted map and their difference, (n, m) each, side by side; colours follow √weight."""
    figure, axes = canvas(1, 3, width=4.6, height=4.6)
    top = float(np.sqrt(max(true.max(), fitted.max())))
    for axis, map_, name in ((axes[0, 0], true, "true map"), (axes[0, 1], fitted, "fitted map")):
        image = heatmap(axis, np.sqrt(np.maximum(map_, 0)), title=name, limit=top)
    bar = figure.colorbar(image, ax=axes[0, 1], shrink=0.8)
    ticks = np.linspace(0, top, 5)
    bar.set_ticks(list(ticks), labels=[f"{t * t:.2g}" for t in ticks])
    difference = heatmap(axes[0, 2], fitted - true, title="fitted − true", signed=True)
    figure.colorbar(difference, ax=axes[0, 2], shrink=0.8)
    for axis in axes[0]:
        axis.set_xlabel("key")
        if labels is not None and len(labels) <= MOST_LABELS and true.shape[0] == len(labels):
            axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=4)
            axis.set_yticks(range(len(labels)), labels, fontsize=4)
    axes[0, 0].set_ylabel("query")
    error = np.linalg.norm(fitted - true) ** 2 / np.linalg.norm(true) ** 2
    figure.suptitle(f"{title}: relative loss {error:.3g}", fontsize=9)
    return figure


def convergence(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, floor: float) -> Any:
    """Loss above the best value found, over seconds and over steps; each curve is (seconds, relative loss)."""
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    best = min(float(np.nanmin(loss)) for _, loss in curves.values())
    for color, (name, (seconds, loss)) in zip(PALETTE, curves.items(), strict=False):
        gap = np.maximum(loss - best, floor)
        axes[0, 0].plot(seconds, gap, color=color, label=name, marker="o" if len(loss) < 40 else None, markersize=3)
        axes[0, 1].plot(np.arange(len(loss)), gap, color=color, label=name)
    for axis, label in zip(axes[0], ("seconds, compilation apart", "steps"), strict=True):
        axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.set_xscale("symlog", linthresh=10 if label == "steps" else 0.03)
        axis.set_xlim(left=0)
    axes[0, 0].set_ylabel("relative loss − best found")
    axes[0, 0].legend()
    figure.suptitle(title, fontsize=9)
    return figure


def heldout_over_time(curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str) -> Any:
    """Training and held-out relative loss over seconds; each curve is (seconds, training, heldout)."""
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    for color, (name, (seconds, train, heldout)) in zip(PALETTE, curves.items(), strict=False):
        axes[0, 0].plot(seconds, train, color=color, label=name)
        axes[0, 1].plot(seconds, heldout, color=color, label=name)
    for axis, label in zip(axes[0], ("training", "held-out"), strict=True):
        axis.set_yscale("log")
        axis.set_xlabel("seconds, compilation apart")
        axis.set_title(f"{label} relative loss")
        axis.set_xscale("symlog", linthresh=0.03)
        axis.set_xlim(left=0)
    axes[0, 0].legend()
    figure.suptitle(title, fontsize=9)
    return figure
