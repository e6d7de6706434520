"""Figures of a recovered head: the curves of the methods, true and fitted map word by word, true and fitted logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.runner.figures import PALETTE, canvas, heatmap

MARKERS = ("*", "o", "s")


def curves(found: Mapping[str, np.ndarray], title: str) -> Any:
    """Training and held-out loss over seconds; each curve has rows (seconds, training, held out)."""
    figure, axes = canvas(1, 2, width=4.4, height=3.2)
    for column, axis in enumerate(axes[0], 1):
        for color, marker, (name, curve) in zip(PALETTE, MARKERS, found.items(), strict=False):
            few = max(len(curve) // 12, 1)
            axis.plot(
                curve[:, 0], curve[:, column], color=color, label=name, marker=marker, markevery=few,
                markersize=11 if marker == "*" else 4, zorder=3 if marker == "*" else 2,
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_xlabel("seconds (compiling included for fit_attention only)")
        axis.set_title(("training texts", "unseen texts")[column - 1])
        axis.set_xlim(left=0)
    axes[0, 0].set_ylabel("loss, of ‖B‖²")
    axes[0, 1].legend(loc="center right")
    figure.suptitle(title, fontsize=9)
    return figure


def fullest(true: np.ndarray, size: int) -> int:
    """The start of the `size` consecutive tokens that attend most to each other, the first token left out."""
    sums = np.pad(true, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    i = np.arange(1, true.shape[0] - size + 1)
    inside = sums[i + size, i + size] - sums[i, i + size] - sums[i + size, i] + sums[i, i]
    return int(i[np.argmax(inside)]) if len(i) else 0


def maps(true: np.ndarray, fitted: np.ndarray, tokens: Sequence[str], size: int) -> Any:
    """True map, fitted map and their difference, (n, n), on the `size` tokens that attend most to each other."""
    begin = fullest(true, size)
    part = slice(begin, begin + size)
    words = tokens[part]
    figure, axes = canvas(1, 3, width=5.0, height=4.9)
    top = float(np.sqrt(max(true[part, part].max(), fitted[part, part].max())))
    for axis, map_, name in ((axes[0, 0], true, "true map"), (axes[0, 1], fitted, "recovered map")):
        image = heatmap(axis, np.sqrt(map_[part, part]), title=name, limit=top)
        bar = figure.colorbar(image, ax=axis, shrink=0.6)
        ticks = np.linspace(0, top, 5)
        bar.set_ticks(list(ticks), labels=[f"{t * t:.2g}" for t in ticks])
    difference = heatmap(axes[0, 2], (fitted - true)[part, part], title="recovered − true", signed=True)
    figure.colorbar(difference, ax=axes[0, 2], shrink=0.6)
    for axis in axes[0]:
        axis.set_aspect("equal")
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
        axis.set_yticks(range(len(words)), words, fontsize=6)
        axis.set_xlabel("key")
    axes[0, 0].set_ylabel("query")
    error = np.linalg.norm(fitted - true) ** 2 / np.linalg.norm(true) ** 2
    figure.suptitle(
        f"a text that the fit has not seen, tokens {begin} to {begin + len(words) - 1} of {len(tokens)}; "
        f"relative loss of the whole map {error:.1g}",
        fontsize=9,
    )
    return figure


def logits(true: np.ndarray, found: Mapping[str, np.ndarray]) -> Any:
    """Fitted over true logits, row-centred, one panel a method; colours count pairs of tokens."""
    figure, axes = canvas(1, len(found), width=3.2, height=3.2)
    low, high = float(true.min()), float(true.max())
    bins = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 120)
    for axis, (name, values) in zip(axes[0], found.items(), strict=True):
        count = np.histogram2d(true.ravel(), values.ravel(), bins=(bins, bins))[0]
        axis.pcolormesh(bins, bins, np.log1p(np.where(count.T > 0, count.T, np.nan)), rasterized=True)
        axis.plot(bins[[0, -1]], bins[[0, -1]], color="#000000", linewidth=0.5)
        error = np.linalg.norm(values - true) / np.linalg.norm(true)
        axis.set_title(f"{name}\noff by {100 * error:.2g}%")
        axis.set_xlabel("true logit")
        axis.set_aspect("equal")
    axes[0, 0].set_ylabel("fitted logit")
    figure.suptitle("logits of unseen texts, less the mean of each row", fontsize=9)
    return figure
