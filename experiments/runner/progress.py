"""How far a run is, on a terminal: a bar with the time left, the newest numbers, and the stage before the first step.

The bar is drawn from the calls that report progress, never by a thread of its own, which would be on the clocks of
what is measured.
"""

import time
from typing import Any

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from experiments.runner.screen import clean

SECONDS = 0.5  # at least, between two drawings
# Tracing is left out: its times are nested in one another.
_COMPILING = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")
_spent = {"compiling": 0.0}


class Bar:
    """The live lines at the foot of a terminal; `say` of the console prints above them."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._task: Any = None
        self._drawn = -1e9

    def stage(self, text: str) -> None:
        """Show one line, such as "compiling …"."""
        self._draw(Text(clean(text), no_wrap=True, overflow="ellipsis"))

    def show(self, step: int, expected: int | None, numbers: str) -> None:
        """Show a step of `expected`, if that is known, and the newest numbers."""
        if expected and self._bar is None:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._screen, auto_refresh=False)
            self._task = self._bar.add_task("", total=expected)
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        if time.monotonic() - self._drawn >= SECONDS:
            line = Text(clean(numbers), no_wrap=True, overflow="ellipsis")
            self._draw(Group(self._bar, line) if self._bar is not None else line)

    def _draw(self, what: Any) -> None:
        if self._live is None:
            self._live = Live(console=self._screen, auto_refresh=False, transient=True)
            self._live.start()
            self._screen.show_cursor(True)  # a run that is killed leaves the terminal as it was
        self._live.update(what, refresh=True)
        self._drawn = time.monotonic()

    def close(self) -> None:
        """Take the lines away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _note(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event in _COMPILING:
        _spent["compiling"] += duration_secs


def compiling_seconds() -> float:
    """Seconds that this process has spent on compiling since it was asked first."""
    if "asked" not in _spent:
        _spent["asked"] = 1.0
        jax.monitoring.register_event_duration_secs_listener(_note)
    return _spent["compiling"]
