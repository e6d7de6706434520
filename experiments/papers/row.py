"""What a row of docs/papers.md is, and what a run gives to it."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from experiments.claims import pages
from experiments.claims.reading import Measured

VERDICTS = ("true", "false", "void", "true in part", "reproduced", "not reproduced", "open", "not built")
_PLACE = re.compile(r"\{([^{}:]+)(?::(\d))?\}")


class Row(NamedTuple):
    """One statement.

    Attributes:
        where: its place in the paper.
        says: the statement, in words or as a formula.
        file: what computes or proves it here, from the root of the repository.
        published: as printed.
        ours: what is proved here.
        measured: text; `{name}` or `{name:3}` (digits) is a recorded number.
        verdict: begins with one of `VERDICTS`.
        covers: the registered statements that it is the row of, by their names in their registries.
        otherwise: what is shown for `measured` where a number of it is not recorded.
    """

    where: str
    says: str
    file: str
    published: str
    ours: str
    measured: str
    verdict: str
    covers: tuple[str, ...] = ()
    otherwise: str = "no recorded run"

    def numbers(self) -> list[str]:
        """The names of the recorded numbers that the row shows."""
        return [name for name, _ in _PLACE.findall(self.measured)]

    def filled(self, numbers: Mapping[str, Measured]) -> str:
        """`measured` with the recorded numbers in their places."""
        if not set(self.numbers()) <= set(numbers):
            return self.otherwise
        return _PLACE.sub(lambda m: pages.value(numbers[m[1]], int(m[2] or 2)), self.measured)


class Run(NamedTuple):
    """A run whose result has numbers of rows: `read` takes the result and returns name → number.

    Of a sweep it takes a list of the finished tasks, each as its overrides and its result.
    """

    config: str
    read: Callable[[Any], dict[str, float]]
    overrides: tuple[str, ...] = ()
    sweep: bool = False

    @property
    def key(self) -> str:
        """Its name in docs/papers.json."""
        return " ".join((self.config, *self.overrides, *["sweep"] * self.sweep))

    @property
    def command(self) -> str:
        """As a person types it."""
        flags = (f'"{flag}"' if "'" in flag else flag for flag in self.overrides)
        program = "sweep" if self.sweep else "run"
        return " ".join((f"python -m experiments.{program} --config", self.config, *flags))


class Chapter(NamedTuple):
    """The rows of one paper, and what is said above them."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


def show(number: float, digits: int = 2) -> str:
    """A constant as people read it.

    >>> show(5.44331, 3), show(float("inf"))
    ('5.44', '∞')
    """
    return "∞" if number == float("inf") else pages.shown(number, digits) if number < 1e5 else f"{number:.0e}".replace(
        "e+0", "e"
    ).replace("e+", "e")  # fmt: skip


def missing(covered: Iterable[str], registered: Iterable[str]) -> list[str]:
    """Registered statements without a row."""
    return sorted(set(registered) - set(covered))
