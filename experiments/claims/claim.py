"""What a claim is: where its number comes from, how it is read there, and what is expected of it."""

import re
from typing import NamedTuple

_LIMIT = re.compile(r"(<=|>=)(-?[\d.]+(?:e-?\d+)?)")


class Claim(NamedTuple):
    """One number of a section.

    `expected` is `<=X`, `>=X`, or "" for a number that others are compared with. `path` says where the number is in
    result.json (`experiments.claims.reading.read`), and `seeds` where the positions of those that count are. Of a
    command that is no run `path` is a regular expression, whose largest match in the output counts. It is "" where the
    number is in no result. `factor` multiplies what was read. `digits` are
    significant.
    """

    name: str
    text: str
    expected: str = ""
    path: str = ""
    seeds: str = ""
    factor: float = 1.0
    digits: int = 3

    def limit(self) -> tuple[str, float] | None:
        """The comparison and the number; None where nothing is expected."""
        if not self.expected:
            return None
        found = _LIMIT.fullmatch(self.expected)
        if found is None:
            raise ValueError(f"claim {self.name!r}: expected is {self.expected!r}; it must be <=X or >=X")
        return found[1], float(found[2])

    def met(self, value: float) -> bool | None:
        """Whether a value is as expected; None where nothing is expected."""
        limit = self.limit()
        return None if limit is None else value <= limit[1] if limit[0] == "<=" else value >= limit[1]


class Section(NamedTuple):
    """Claims that one command measures.

    `config` and `overrides` make a run; without a config `command` is run as it is, where some claim has a path.
    `quick` ones are made by `--quick`. `reads` is a finished sweep below `--root`: where it is, `command` is run on it.
    """

    title: str
    claims: tuple[Claim, ...]
    config: str = ""
    overrides: tuple[str, ...] = ()
    command: str = ""
    quick: bool = False
    note: str = ""
    reads: str = ""

    def shown(self) -> str:
        """The command as a person types it."""
        if self.command:
            return self.command
        flags = [f'"{flag}"' if set("'()") & set(flag) else flag for flag in self.overrides]
        return " ".join(["python -m experiments.run --config", self.config, *flags])


class Headline(NamedTuple):
    """A row of the README: the names of our claim and of the best alternative's; either may be words instead."""

    text: str
    ours: str
    other: str
    by: str
    ratio: str
    link: str
