"""Two runs side by side: `python -m experiments.compare A B`.

The fields of their configs that differ, and their headline numbers with the ratio B / A.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.runner import past
from experiments.runner.command import called, command, unreadable_is_usage
from experiments.runner.past import Past
from experiments.runner.results import flat
from experiments.runner.screen import clean, console
from experiments.runner.sheet import sheet
from experiments.runner.store.encoding import dumps


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the two folders on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog=called("compare"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("first", type=Path, help="a run's folder")
    parser.add_argument("second", type=Path, help="another one's")
    options = parser.parse_args(argv)
    return command(lambda: _compare(options.first, options.second))


def _compare(first: Path, second: Path) -> int:
    with unreadable_is_usage():
        runs = [past.read(first), past.read(second)]
    screen = console()
    for letter, run in zip("AB", runs, strict=True):
        screen.print(clean(f"{letter}: {run.workdir} ({run.state}): {run.told.about.title}"))
    fields = differences(runs)
    if fields:
        screen.print(sheet("fields that differ", ("field", "A", "B"), fields))
    else:
        screen.print("the same config")
    if numbers := metrics(*runs):
        screen.print(sheet("headline", ("metric", "A", "B", "B / A", "better", "what it is"), numbers))
    else:
        screen.print("they have no headline number in common")
    return 0


def differences(runs: Sequence[Past]) -> list[tuple[str, ...]]:
    """Every config field in which runs differ, with its value in each, as texts; "–" where a config lacks it."""
    configs = [flat(run.config) for run in runs]
    rows = [
        (name, *(_text(config, name) for config in configs)) for name in dict.fromkeys(n for c in configs for n in c)
    ]
    return [row for row in rows if len(set(row[1:])) > 1]


def _text(config: dict[str, Any], name: str) -> str:
    if name not in config:
        return "–"
    return config[name] if isinstance(config[name], str) else dumps(config[name])


def metrics(first: Past, second: Past) -> list[tuple[Any, ...]]:
    """Name, both values, their ratio, which is better and the meaning of each metric that both declare."""
    theirs = {line.metric.name: line for line in second.headline}
    rows = []
    for line in first.headline:
        other = theirs.get(line.metric.name)
        if other is None or line.value is None or other.value is None:
            continue
        a, b, better = line.value, other.value, line.metric.better
        best = "" if not better or a == b else "AB"[(b < a) == (better == "lower")]
        rows.append((line.metric.name, a, b, b / a if a else None, best, line.metric.meaning))
    return rows


if __name__ == "__main__":
    sys.exit(main())
