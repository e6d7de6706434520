"""One look for every figure: a colour-blind-safe palette, light axes, confidence bands."""

from typing import Any

import cycler
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.runner.statistics import bootstrap_band

# Okabe and Ito's palette, ordered so that the first two differ most in lightness too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # a curve is told apart without its colour too
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "image.cmap": SEQUENTIAL,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
}


def canvas(rows: int = 1, columns: int = 1, *, width: float = 3.6, height: float = 2.8) -> tuple[Figure, Any]:
    """A figure and its axes, always a (rows, columns) array; `width`, `height` of one panel in inches."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, axes


def band(
    axes: Any, x: Any, runs: Any, *, label: str, color: str, level: float = 0.95, marker: str | None = None
) -> None:
    """Plot the mean of `runs` (runs, len(x)) with its bootstrap band; a `marker` on about ten of its points."""
    mean, low, high = bootstrap_band(runs, level=level)
    every = max(len(mean) // 10, 1)
    axes.plot(x, mean, color=color, label=label, marker=marker, markersize=4, markevery=every)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def heatmap(axes: Any, matrix: Any, *, title: str, limit: float | None = None, signed: bool = False) -> Any:
    """Show a matrix; `signed` centres the colours on zero. Returns the image, for a colour bar."""
    matrix = np.asarray(matrix)
    top = float(np.abs(matrix).max()) if limit is None else limit
    image = axes.imshow(
        matrix,
        vmin=-top if signed else 0.0,
        vmax=top,
        cmap=DIVERGING if signed else SEQUENTIAL,
        aspect="auto",
    )
    axes.grid(False)
    axes.set_title(title)
    return image
