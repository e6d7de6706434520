"""What people see: the console, numbers and durations; control characters never reach a terminal."""

import os
import sys
from typing import IO, Any

from rich.console import Console


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on (`| head`): go on in silence, since the run is worth more than its lines."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(file: IO[str] | None = None, *, quiet: bool = False) -> Console:
    """A console that wraps at the terminal's width and never cuts lines short in a log file.

    With NO_COLOR set it writes no escape codes at all, as into a pipe: bold and italics are no better than colour.
    """
    plain = None if os.environ.get("NO_COLOR") else "auto"
    screen = _Screen(
        file=file, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet, color_system=plain
    )
    if not screen.is_terminal and (file is not None or "COLUMNS" not in os.environ):
        screen.width = 160
    return screen


def clean(text: str) -> str:
    """`text` with every control character but the line end and the tab written out (`\\x1b`)."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: Any) -> str:
    """A number with six significant digits; anything else as it prints, nothing for None."""
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else clean(str(value))


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def age(seconds: float) -> str:
    """How long ago something was, in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
