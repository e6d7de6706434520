"""What people see: the console, tables, numbers and durations; control characters never reach a terminal."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on (`| head`): go on in silence, since the run is worth more than its lines."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(file: IO[str] | None = None) -> Console:
    """A console that wraps at the terminal's width and never cuts lines short in a log file."""
    screen = _Screen(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not screen.is_terminal and (file is not None or "COLUMNS" not in os.environ):
        screen.width = 160
    return screen


def clean(text: str) -> str:
    """`text` with every control character but the line end and the tab written out (`\\x1b`)."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def rich_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for the screen: numbers to the right, six significant digits."""
    table = Table(title=clean(title), title_justify="left")
    rows = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(clean(str(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[short(v) for v in row])
    return table


def short(value: Any) -> str:
    """A number with six significant digits; anything else as it prints."""
    return f"{value:.6g}" if isinstance(value, float) else clean(str(value))


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"
