"""The picture of a sweep: a metric against the field that was varied, a line a value of a second field.

What is varied besides, the seed first of all, is what the band is over.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from experiments.runner.about import Metric
from experiments.runner.figures import MARKERS, PALETTE, band, canvas
from experiments.runner.screen import short

MOST_LINES = 6


class Drawn(NamedTuple):
    """A PNG and the caption that says what it shows."""

    image: bytes
    caption: str


class Axes(NamedTuple):
    """The field along x, the field of the lines ("" for none), and those that the band is over."""

    x: str
    lines: str
    over: tuple[str, ...]


def axes_of(overrides: Sequence[dict[str, Any]], varied: Sequence[str]) -> Axes | None:
    """How a sweep is drawn; None where nothing but one value was varied.

    Along x goes the field with the most values, numbers before words, seeds last; then the one with the fewest values
    makes the lines, unless it is a seed or they are too many.
    """
    values = {name: {_key(one.get(name)) for one in overrides} for name in varied}
    several = [name for name in varied if len(values[name]) > 1]
    if not several:
        return None

    def rank(name: str) -> tuple[bool, bool, int]:
        numbers = all(isinstance(one.get(name), int | float) for one in overrides)
        return _is_seed(name), not numbers, -len(values[name])

    x = min(several, key=rank)
    rest = sorted((n for n in several if n != x and not _is_seed(n)), key=lambda name: len(values[name]))
    lines = rest[0] if rest and len(values[rest[0]]) <= MOST_LINES else ""
    return Axes(x, lines, tuple(name for name in several if name not in (x, lines)))


def against(
    overrides: Sequence[dict[str, Any]], values: Sequence[float | None], metric: Metric, varied: Sequence[str]
) -> Drawn | None:
    """The picture of one metric; None where there is nothing to draw."""
    axes = axes_of(overrides, varied)
    found = [(one, value) for one, value in zip(overrides, values, strict=True) if value is not None]
    if axes is None or len(found) < 2:
        return None
    positions = _positions([one.get(axes.x) for one, _ in found])
    figure, panels = canvas(width=4.8, height=3.2)
    panel = panels[0, 0]
    groups = dict.fromkeys(_key(one.get(axes.lines)) for one, _ in found) if axes.lines else {"": None}
    most = 1
    for i, group in enumerate(groups):
        mine = [
            (positions[_key(one.get(axes.x))], v)
            for one, v in found
            if _key(one.get(axes.lines)) == group or not axes.lines
        ]
        x, runs = _runs(mine)
        most = max(most, len(runs))
        label = f"{axes.lines} {group}" if axes.lines else metric.name
        band(panel, x, runs, label=label, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)])
    _scales(panel, positions, [v for _, v in found])
    panel.set(xlabel=axes.x, ylabel=metric.name)
    if axes.lines:
        panel.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png")
    plt.close(figure)
    return Drawn(image.getvalue(), _caption(metric, axes, most))


def _caption(metric: Metric, axes: Axes, runs: int) -> str:
    lines = f", a line for each {axes.lines}" if axes.lines else ""
    over = f" over {runs} runs that differ in {' and '.join(axes.over)}" if axes.over and runs > 1 else ""
    what = f"Mean{over} with its 95% bootstrap band" if over else "One run a point"
    return f"{metric.name} ({metric.meaning}) against {axes.x}{lines}. {what}."


def _runs(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions (T,) and values (R, T); a position with fewer runs is filled up with NaN."""
    at: dict[float, list[float]] = {}
    for x, value in points:
        at.setdefault(x, []).append(value)
    xs = np.array(sorted(at))
    runs = np.full((max(map(len, at.values())), len(xs)), np.nan)
    for column, x in enumerate(xs):
        runs[: len(at[float(x)]), column] = at[float(x)]
    return xs, runs


def _positions(values: Sequence[Any]) -> dict[str, float]:
    """Where each value stands on the x axis: numbers where they are, words one after the other."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return {_key(v): float(v) if numbers else float(i) for i, v in enumerate(dict.fromkeys(map(_hashable, values)))}


def _scales(panel: Any, positions: dict[str, float], values: Sequence[float]) -> None:
    """Logarithmic axes for what spans more than a factor of 30; words as ticks."""
    places = sorted(positions.values())
    if any(key != short(place) for key, place in positions.items()):
        panel.set_xticks(list(positions.values()), list(positions))
    elif places[0] > 0 and places[-1] / places[0] > 30:
        panel.set_xscale("log")
    if min(values) > 0 and max(values) / min(values) > 30:
        panel.set_yscale("log")


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] in ("seed", "first_key")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _key(value: Any) -> str:
    value = _hashable(value)
    return short(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
