"""What the runs of one program share: the screen, the request to stop, the pace of checkpoints, saving and resuming."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console

from experiments.runner.journal import Journal
from experiments.runner.progress import Bar
from experiments.runner.screen import clean, console
from experiments.runner.signals import Preempted, Stop
from experiments.runner.store.checkpoints import CheckpointError

CHECKPOINT_SECONDS = 30.0


@dataclasses.dataclass
class Session:
    """One program at work on one run, or on a batch of them. A single run is a batch of one."""

    screen: Console = dataclasses.field(default_factory=console)
    log: Console | None = None  # of the run's log.txt, which gets every line that people see
    stop: Stop = dataclasses.field(default_factory=Stop)
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    primary: bool = True  # of many processes: the one that prints and writes
    agree: Callable[[bool], bool] = bool  # makes a decision common to all processes
    saved: float = dataclasses.field(default_factory=time.monotonic)
    began: bool = False  # whether any run has logged or gone on: errors before that are the config's
    _pending: str | None = None
    _shown: float = -1e9
    _stages: set[str] = dataclasses.field(default_factory=set)
    _bar: Bar | None = None

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for; the next `save` acts on it. On many processes: a collective."""
        return self.agree(self.stop.requested is not None)

    @property
    def due(self) -> bool:
        """Whether `checkpoint_seconds` have passed since the last checkpoint."""
        return self.agree(time.monotonic() - self.saved >= self.checkpoint_seconds)

    @property
    def bar(self) -> Bar | None:
        """The live lines of a terminal that can redraw them; None elsewhere, where lines are printed instead."""
        live = self.screen.is_terminal and not self.screen.is_dumb_terminal
        if self._bar is None and self.primary and live:
            self._bar = Bar(self.screen)
        return self._bar

    def say(self, text: str) -> None:
        """Print a line of text."""
        self.show_progress()
        self.show(clean(str(text)))

    def show(self, what: Any, *, only_log: bool = False) -> None:
        """Print a line, or a table, on the screen and in the log."""
        for place in (self.log, None if only_log else self.screen):
            if place is not None and self.primary:
                place.print(what)

    def stage(self, name: str) -> None:
        """Say, once, what takes a while now; on a terminal at its foot, until the next progress."""
        if name in self._stages:
            return
        self._stages.add(name)
        self.show_progress()
        self.show(f"{name} …", only_log=self.bar is not None)
        if self.bar is not None:
            self.bar.stage(f"{name} …")

    def progress(self, step: int, expected: int | None, numbers: str) -> None:
        """Show a step: a bar on a terminal; elsewhere a line, or none when one was printed a moment ago."""
        self._pending = f"step {step}{f'/{expected}' if expected else ''}  {numbers}"
        if self.bar is not None:
            self.bar.show(step, expected, self._pending)
        if time.monotonic() - self._shown >= 5.0:
            self.show_progress()

    def show_progress(self) -> None:
        """Print the progress line that is waiting, if any; where there is a bar, in the log alone."""
        if self._pending is not None:
            self.show(clean(self._pending), only_log=self.bar is not None)
            self._shown = time.monotonic()
        self._pending = None

    def close(self) -> None:
        """Show what waits, and leave the terminal to others."""
        self.show_progress()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def save(self, journals: Sequence[Journal], step: int, states: Iterable[Any]) -> None:
        """Checkpoint state i in journal i when one is due or a stop was asked for, and then stop.

        `states` is drawn from only when a checkpoint is written.
        """
        stopping = self.should_stop
        if not stopping and not self.due:
            return
        self.checkpoint(journals, step, states)
        if stopping:
            self.say(f"stopped at step {step} ({self.stop.requested}); the same command goes on from here")
            raise Preempted(step)

    def checkpoint(self, journals: Sequence[Journal], step: int, states: Iterable[Any]) -> None:
        """Checkpoint state i in journal i now."""
        for journal, state in zip(journals, states, strict=True):
            journal.checkpoint(step, state)
        self.saved = time.monotonic()

    def restore(self, journals: Sequence[Journal], templates: Sequence[Any]) -> tuple[int, list[Any]] | None:
        """(step, states) at the newest step that all have saved and can read, or None when all start at step 0.

        A damaged checkpoint is passed over for the one before it. When there are some and none can be read it is a
        CheckpointError, since starting again silently would hide the loss.
        """
        failures = []
        for step in sorted(set.intersection(*(set(j.steps()) for j in journals)), reverse=True):
            found, failure = [], ""
            try:
                found = [journal.read(step, template) for journal, template in zip(journals, templates, strict=True)]
            except CheckpointError as error:
                failure = str(error)
            if self.agree(bool(failure)):
                failures.append(failure or f"step {step}: another process cannot read it")
                continue
            for failure in failures:
                self.say(f"a damaged checkpoint was passed over ({failure})")
            for journal, one in zip(journals, found, strict=True):
                journal.go_on(one)
            self.began = True
            self.say(f"resumed at step {step}")
            return step, [one.state for one in found]
        if failures:
            raise CheckpointError(
                f"no checkpoint in {journals[0].workdir} can be used ({'; '.join(failures)}); "
                "it is damaged or the code has changed; --force starts the run anew"
            )
        for journal in journals:
            if journal.must_restore:  # a batch that died before all its members had saved once
                journal.start_over()
        return None
