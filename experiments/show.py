"""One run, or the tasks of a sweep: `python -m experiments.show runs/x`.

What was asked, the headline numbers beside what was expected, the command that repeats it, the tables and the files.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.runner import past
from experiments.runner.about import in_words
from experiments.runner.command import called, command, unreadable_is_usage
from experiments.runner.past import Headline, Past
from experiments.runner.results import is_sweep, tables
from experiments.runner.screen import age, clean, console
from experiments.runner.sheet import sheet
from experiments.runner.store import folder

VERDICTS = {True: "as expected", False: "NOT as expected", None: ""}
ROWS = 20  # of a table that are shown; its file has all


def main(argv: Sequence[str] | None = None) -> int:
    """Show the folder on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog=called("show"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, help="a run's or a sweep's folder")
    root = parser.parse_args(argv).root
    return command(lambda: _show(root))


def _show(root: Path) -> int:
    with unreadable_is_usage():
        if is_sweep(root):
            _sweep(root, console())
        else:
            _run(past.read(root), console())
    return 0


def _run(run: Past, screen: Console) -> None:
    words = run.told.about
    screen.print(clean(f"{words.title} ({run.state}, {age(run.seconds_ago)} ago)"))
    screen.print(clean(words.summary))
    if run.command:
        screen.print(clean(run.command))
    if run.state == past.FAILED:
        screen.print(clean(past.failure(run.workdir)))
    if run.headline and run.result:
        screen.print(sheet("headline", ("metric", "value", "expected", "verdict", "what it is"), _lines(run.headline)))
    for name, columns, rows in tables(run.workdir):
        screen.print(sheet(name, columns, rows[:ROWS]))
        if len(rows) > ROWS:
            screen.print(f"{len(rows) - ROWS} more rows: {run.workdir / folder.TABLES / name}.csv")
    screen.print(clean("files: " + ", ".join(sorted(p.name for p in run.workdir.iterdir() if p.name[0] != "."))))


def _lines(headline: Sequence[Headline]) -> list[tuple[object, ...]]:
    return [
        (line.metric.name, line.value, in_words(line.expected), VERDICTS[line.met], line.metric.meaning)
        for line in headline
    ]


def _sweep(root: Path, screen: Console) -> None:
    """Every task that was begun: what it varies, its state and its headline numbers."""
    runs = [(past.read(workdir), overrides) for workdir, overrides in past.members(root)]
    if not runs:
        raise ValueError(f"no task of {root} has been begun")
    varied = list(dict.fromkeys(name for _, overrides in runs for name in overrides))
    metrics = list(dict.fromkeys(line.metric.name for run, _ in runs for line in run.headline))
    rows = []
    for run, overrides in runs:
        values = {line.metric.name: line.value for line in run.headline}
        rows.append((*(overrides.get(name) for name in varied), run.state, *(values.get(name) for name in metrics)))
    screen.print(sheet(str(root), (*varied, "state", *metrics), rows, keep=(*varied, "state", *metrics[:1])))


if __name__ == "__main__":
    sys.exit(main())
