"""The picture of an attention map: true, fitted and their difference, on as many tokens as can be read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.runner.figures import canvas, heatmap

SHOWN = 40  # tokens a side; a map of more is cropped to those that attend most to each other


def fullest(true: np.ndarray, size: int, tokens: Sequence[str] | None = None) -> int:
    """The start of the `size` consecutive tokens that attend most to each other, the first token left out.

    Of a text, only among the parts that are prose: rules of asterisks attend to each other too.
    """
    sums = np.pad(true, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    i = np.arange(1, true.shape[0] - size + 1)
    inside = sums[i + size, i + size] - sums[i, i + size] - sums[i + size, i] + sums[i, i]
    if not len(i):
        return 0
    if tokens is not None:
        words = np.cumsum([0, *(any(letter.isalpha() for letter in token) for token in tokens)])
        share = words[i + size] - words[i]
        inside = np.where(share >= 0.95 * share.max(), inside, -np.inf)
    return int(i[np.argmax(inside)])


def maps(
    true: np.ndarray, fitted: np.ndarray, *, title: str, tokens: Sequence[str] | None = None, size: int = SHOWN
) -> Any:
    """True map, fitted map and their difference, (n, m), side by side.

    Args:
        true, fitted: (n, m) weights, or logits, which have a sign.
        title: what the maps are of, with the number of the table that they belong to.
        tokens: one for each row and column; None shows positions.
        size: of a square map with more rows, the consecutive tokens shown.
    """
    square = true.shape[0] == true.shape[1]
    begin = fullest(np.abs(true), size, tokens) if square and true.shape[0] > size else 0
    count = min(size, true.shape[0]) if square else true.shape[0]
    part = (slice(begin, begin + count),) * 2 if square else (slice(None),) * 2
    shown, found = true[part], fitted[part]
    figure, axes = canvas(1, 3, width=5.0, height=4.9)
    for axis, values, name in ((axes[0, 0], shown, "true"), (axes[0, 1], found, "fitted")):
        _weights(figure, axis, values, name, (shown, found))
    difference = heatmap(axes[0, 2], found - shown, title="fitted − true", signed=True)
    figure.colorbar(difference, ax=axes[0, 2], shrink=0.6, label="difference")
    for axis in axes[0]:
        _positions(axis, begin, tokens[begin : begin + count] if tokens is not None and square else None)
        axis.set_aspect("equal" if square else "auto")
    axes[0, 0].set_ylabel("query")
    cropped = f"\ntokens {begin} to {begin + count - 1} of {true.shape[0]}, which attend most to each other"
    figure.suptitle(title + (cropped if count < true.shape[0] else ""), fontsize=9)
    return figure


def _weights(figure: Any, axis: Any, values: np.ndarray, name: str, both: tuple[np.ndarray, np.ndarray]) -> None:
    """One map with its colour scale: weights by their square root, which shows the small ones; logits as they are."""
    signed = float(both[0].min()) < 0
    top = max(float(np.abs(part).max()) for part in both)
    if signed:
        image = heatmap(axis, values, title=f"{name} logits", limit=top, signed=True)
        figure.colorbar(image, ax=axis, shrink=0.6, label="logit")
        return
    image = heatmap(axis, np.sqrt(np.maximum(values, 0)), title=f"{name} map", limit=top**0.5)
    bar = figure.colorbar(image, ax=axis, shrink=0.6, label="weight; colour by its square root")
    ticks = np.linspace(0, top**0.5, 5)
    bar.set_ticks(list(ticks), labels=[f"{t * t:.2g}" for t in ticks])


def _positions(axis: Any, begin: int, words: Sequence[str] | None) -> None:
    axis.set_xlabel("key")
    if words is not None:
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
        axis.set_yticks(range(len(words)), words, fontsize=6)
    elif begin:
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter(lambda place, _: f"{place + begin:.0f}")
