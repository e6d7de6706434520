"""Figures of a recovered head: the curves of the methods, and true and fitted logits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from experiments.runner.figures import PALETTE, canvas

MARKERS = ("*", "o", "s")


def curves(found: Mapping[str, np.ndarray], title: str) -> Any:
    """Training and held-out loss over seconds; each curve has rows (seconds, training, held out)."""
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    for column, axis in enumerate(axes[0], 1):
        for color, marker, (name, curve) in zip(PALETTE, MARKERS, found.items(), strict=False):
            few = max(len(curve) // 12, 1)
            label = f"{name}: {curve[-1, column]:.2g}"
            axis.plot(
                curve[:, 0], curve[:, column], color=color, label=label, marker=marker, markevery=few,
                markersize=11 if marker == "*" else 4, zorder=3 if marker == "*" else 2,
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xlabel("seconds (compiling included for fit_attention only)")
        axis.set_title(("training texts", "unseen texts")[column - 1])
        axis.set_xlim(left=0)
        axis.legend(loc="center right", title="method: loss at its end", title_fontsize=7, fontsize=7)
    axes[0, 0].set_ylabel("loss, of ‖B‖²")
    figure.suptitle(title, fontsize=9)
    return figure


def logits(true: np.ndarray, found: Mapping[str, np.ndarray]) -> Any:
    """Fitted over true logits, row-centred, one panel a method; colours count pairs of tokens."""
    figure, axes = canvas(1, len(found), width=3.3, height=3.9)
    low, high = float(true.min()), float(true.max())
    bins = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 120)
    image: Any = None
    for axis, (name, values) in zip(axes[0], found.items(), strict=True):
        count = np.histogram2d(true.ravel(), values.ravel(), bins=(bins, bins))[0]
        pairs = np.where(count.T > 0, count.T, np.nan)
        image = axis.pcolormesh(bins, bins, pairs, norm=LogNorm(1, true.size / 20), rasterized=True)
        axis.plot(bins[[0, -1]], bins[[0, -1]], color="#000000", linewidth=0.5)
        error = np.linalg.norm(values - true) / np.linalg.norm(true)
        axis.set_title(f"{name}\noff by {100 * error:.2g}%")
        axis.set_xlabel("true logit")
        axis.set_aspect("equal")
    axes[0, 0].set_ylabel("fitted logit")
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.4, aspect=40, label="pairs of tokens")
    figure.suptitle("logits of unseen texts, less the mean of each row", fontsize=9)
    return figure
