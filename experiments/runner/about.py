"""What an experiment says of itself: `ABOUT`, its title, a sentence and the numbers that a reader looks for first.

A run keeps it in about.json, beside the config and the flags it came from, so that a folder explains itself.
"""

import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.runner.config import Resolved

LOWER, HIGHER, NEITHER = "lower", "higher", ""
_OVER = {"max": np.max, "min": np.min, "median": np.median}
Range = tuple[float | None, float | None]  # from, to; None is open


class Metric(NamedTuple):
    """A number of result.json.

    Attributes:
        name: what tables call it.
        meaning: what it is, with its unit.
        better: "lower", "higher", or "" for a fact that is neither.
        path: where result.json has it, dotted; `*` is every entry of an object or a list. By default the name.
        over: which of the entries of a `*` is shown: "max", "min" or "median".
        always: whether every run has it; else the report shows it where it is there.
    """

    name: str
    meaning: str
    better: str = LOWER
    path: str = ""
    over: str = "max"
    always: bool = True

    def of(self, result: Mapping[str, Any]) -> float | None:
        """Its value in a result; None where there is none."""
        found = [float(v) for v in _entries(result, (self.path or self.name).split(".")) if _is_number(v)]
        return float(_OVER[self.over](found)) if found else None


class About(NamedTuple):
    """An experiment in words: a title, one sentence, and its headline metrics, the most important one first."""

    title: str
    summary: str
    metrics: tuple[Metric, ...]


class Told(NamedTuple):
    """What about.json holds: the words, what is expected of metrics by name, and the config and flags of the run."""

    about: About
    expected: dict[str, Range]
    config: str
    overrides: tuple[str, ...]


def about(module: types.ModuleType) -> About:
    """`ABOUT` of an experiment; of one that has none, its name and the first line of its docstring."""
    words = (module.__doc__ or "").strip().splitlines()
    return getattr(module, "ABOUT", About(module.__name__.removeprefix("experiments."), words[0] if words else "", ()))


def content(module: types.ModuleType, resolved: Resolved) -> dict[str, Any]:
    """What about.json says of a run."""
    words = about(module)
    return {
        "title": words.title,
        "summary": words.summary,
        "metrics": [metric._asdict() for metric in words.metrics],
        "expected": {name: list(limits) for name, limits in resolved.expected.items()},
        "config": resolved.spec,
        "overrides": list(resolved.overrides),
    }


def told(found: Any) -> Told:
    """What `content` wrote; ValueError when it is something else."""
    try:
        metrics = tuple(Metric(**metric) for metric in found["metrics"])
        expected = {str(name): (low, high) for name, (low, high) in found["expected"].items()}
        words = About(str(found["title"]), str(found["summary"]), metrics)
        return Told(words, expected, str(found["config"]), tuple(map(str, found["overrides"])))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("about.json does not say what a run is about") from error


def met(value: float | None, limits: Range | None) -> bool | None:
    """Whether a value is in the range expected of it; None where nothing is expected, or there is no value."""
    if limits is None or value is None:
        return None
    low, high = limits
    return (low is None or value >= low) and (high is None or value <= high)


def in_words(limits: Range | None) -> str:
    """A range as people say it."""
    if limits is None:
        return ""
    low, high = ("" if limit is None else f"{limit:.4g}".replace("e-0", "e-") for limit in limits)
    if not low or not high:
        return f"at most {high}" if high else f"at least {low}" if low else ""
    return f"{low} to {high}" if low != high else low


def _entries(node: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield node
        return
    name, *rest = path
    if name == "*":
        for entry in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
            yield from _entries(entry, rest)
    elif isinstance(node, Mapping) and name in node:
        yield from _entries(node[name], rest)
    elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
        yield from _entries(node[int(name)], rest)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
