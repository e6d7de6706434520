"""docs/papers.md, written from the rows and the recorded numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims.reading import Measured
from experiments.papers.row import VERDICTS, Chapter, Row, Run

HEAD = """# The papers, statement by statement

One row a statement: what is printed, what is proved here, what runs measured, and what it is worth. {statements}
statements: {counts}.

This page is written by `python -m experiments.papers` from `experiments/papers/registry.py` and `docs/papers.json`.
That command reads the finished runs in `runs/` that the [last section](#the-runs) lists; a number is kept until a run
replaces it. "Ours" is a constant proved in [the theory](theory/README.md). "0.9 of ours" says that a search found 0.9
times our constant, and nothing above it. "–" stands where nothing is printed or proved.
"""
COLUMNS = ("statement", "what it says", "file", "published", "ours", "measured", "verdict")


def page(
    chapters: Sequence[Chapter], runs: Sequence[Run], recorded: Mapping[str, Any], numbers: Mapping[str, Measured]
) -> str:
    """The whole page, from what runs gave by their keys, and every number by its name."""
    rows = [row for chapter in chapters for row in chapter.rows]
    verdicts = [kind(row) for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)
    head = HEAD.format(statements=len(rows), counts=counts)
    return head + "".join(_chapter(chapter, numbers) for chapter in chapters) + _runs(runs, recorded)


def kind(row: Row) -> str:
    """The verdict without its reasons: the longest of `VERDICTS` that it begins with."""
    return max((verdict for verdict in VERDICTS if row.verdict.startswith(verdict)), key=len)


def _chapter(chapter: Chapter, numbers: Mapping[str, Measured]) -> str:
    note = Row("", "", "", "", "", chapter.note, "", (), "").filled(numbers)
    lines = [f"\n## {chapter.title}\n", *([f"{note}\n"] if note else []), _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    return "\n".join((*lines, *(_row(_cells(row, numbers)) for row in chapter.rows))) + "\n"


def _cells(row: Row, numbers: Mapping[str, Measured]) -> list[str]:
    file = f"[{row.file.rpartition('/')[2]}](../{row.file})"
    return [row.where, row.says, file, row.published, row.ours, row.filled(numbers), row.verdict]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"


def _runs(runs: Sequence[Run], recorded: Mapping[str, Any]) -> str:
    lines = ["\n## The runs\n", _row(("command", "recorded")), _row(("---", "---"))]
    for run in runs:
        entry = recorded.get(run.key)
        when = "not yet" if entry is None else f"{entry['date']} {entry['commit']}".strip()
        lines.append(_row((f"`{run.command}`", when)))
    return "\n".join(lines) + "\n"
