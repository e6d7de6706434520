"""`record`: the only way an experiment leaves something behind, and the only thing it needs to resume."""

import contextlib
import csv
import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.runner.signals import Preempted, Stop
from experiments.runner.store import folder
from experiments.runner.store.checkpoints import CheckpointError, Checkpoints, Restored
from experiments.runner.store.encoding import dumps, write_atomic

CHECKPOINT_SECONDS = 30.0


def console(*, stderr: bool = False) -> Console:
    """A console that wraps at the terminal's width and never cuts lines short in a log file."""
    plain = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not plain.is_terminal and "COLUMNS" not in os.environ:
        plain = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, width=160)
    return plain


class Record:
    """One run's folder, seen from the experiment.

    An experiment that can be long has this shape; `step` counts finished steps, 0 at the start::

        step, state = record.restore(initial_state)   # (0, initial_state) in a fresh run
        while step < config.steps:
            state, losses = chunk(state)              # one compiled chunk of steps
            step += config.chunk
            record.log(step, loss=losses[-1])
            record.save(step, state)                  # when due; also saves and stops when preempted
    """

    def __init__(
        self,
        workdir: Path,
        *,
        resume: bool = False,
        primary: bool = True,
        writes: bool = True,
        screen: Console | None = None,
        stop: Stop | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        events: bool = False,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        """`primary` prints, and writes if `writes`; `agree` makes a decision common to all processes."""
        self.workdir = workdir
        self.tables: dict[str, Table] = {}
        self._primary = primary
        self._writes = primary and writes
        self._screen = screen or console()
        self._stop = stop or Stop()
        self._agree = agree
        self._checkpoints = Checkpoints(workdir / folder.CHECKPOINTS)
        self._checkpoint_seconds = checkpoint_seconds
        self._clock = time.monotonic
        self._started = self._saved = self._clock()
        self._before = 0.0
        self._must_restore = resume and bool(self._checkpoints.steps())
        self._shown: tuple[float, int] = (-1e9, -1)
        self._pending: str | None = None
        self._expected: int | None = None
        self._metrics = -1
        if self._writes:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if self._must_restore else os.O_TRUNC)
            self._metrics = os.open(workdir / folder.METRICS, flags, 0o644)
        self._events = _event_writer(workdir / folder.EVENTS) if events and self._writes else None

    # --- what happened -------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds this run has worked (monotonic), earlier sessions up to the checkpoint included."""
        return self._before + self._clock() - self._started

    def log(self, step: int, **scalars: Any) -> None:
        """Append one line to metrics.jsonl, `step` and `time` in seconds included, and show progress."""
        if self._must_restore:
            raise RuntimeError("this folder holds a checkpoint: call record.restore(initial_state) before record.log")
        taken = {"step", "time"} & scalars.keys()
        if taken:
            raise ValueError(f"record.log keeps the name {taken.pop()!r} for itself; choose another")
        if not self._writes:
            return
        line = {"step": int(step), "time": round(self.seconds, 6)} | {k: _scalar(k, v) for k, v in scalars.items()}
        self._append((dumps(line, where="metrics") + "\n").encode())
        if self._events is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "time"):
                    self._events.add_scalar(name, value, step)
        self._progress(int(step), line)

    def _append(self, data: bytes) -> None:
        written = os.write(self._metrics, data)
        while written < len(data):  # a disk that fills up writes a part first; the next write then raises
            written += os.write(self._metrics, data[written:])

    def expect(self, steps: int) -> None:
        """Tell the progress line how many steps the run will take."""
        self._expected = int(steps)

    def _progress(self, step: int, line: dict[str, Any]) -> None:
        of = f"/{self._expected}" if self._expected else ""
        numbers = "  ".join(f"{k} {_short(v)}" for k, v in line.items() if k not in ("step", "time"))
        self._pending = f"step {step}{of}  {numbers}  {_duration(self.seconds)}"
        every = 1.0 if self._screen.is_terminal else 5.0
        if self._clock() - self._shown[0] >= every:
            self._show_pending()

    def _show_pending(self) -> None:
        if self._pending is not None:
            self._screen.print(self._pending)
            self._pending, self._shown = None, (self._clock(), 0)

    def say(self, text: str) -> None:
        """Print a line of text."""
        if self._primary:
            self._show_pending()
            self._screen.print(str(text))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Keep a table as tables/<name>.csv in full precision; print it, rounded, at the end of the run."""
        rows = [[_cell(v) for v in row] for row in rows]
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {name!r} has {len(columns)} columns, a row has {len(row)}: {row}")
        if not self._writes:
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([list(columns), *rows])
        write_atomic(self.workdir / folder.TABLES / f"{folder.file_name(name)}.csv", text.getvalue().encode())
        self.tables[name] = rich_table(name, columns, rows)

    def figure(self, name: str, figure: Any) -> Path:
        """Keep a matplotlib figure as figures/<name>.png, close it, and return the path."""
        import matplotlib.pyplot as plt

        path = self.workdir / folder.FIGURES / f"{folder.file_name(name)}.png"
        if self._writes:
            image = io.BytesIO()
            figure.savefig(image, format="png")
            write_atomic(path, image.getvalue())
        plt.close(figure)
        return path

    # --- stopping and going on -----------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for; the next `save` acts on it. On many processes: a collective."""
        return self._agree(self._stop.requested is not None)

    def save(self, step: int, state: Any) -> None:
        """Checkpoint `state` when one is due (`checkpoint_seconds`) or a stop was asked for, and then stop.

        `state` is a pytree of arrays, typed PRNG keys and Python numbers: all that the rest of the run
        depends on. Call it at every chunk boundary, after the `log` calls of the chunk, on all processes.
        """
        stopping = self.should_stop
        if not stopping and not self.due:
            return
        self.checkpoint(step, state)
        if stopping:
            self.say(f"stopped at step {step} ({self._stop.requested}); the same command goes on from here")
            raise Preempted(int(step))

    @property
    def due(self) -> bool:
        """Whether `checkpoint_seconds` have passed since the last checkpoint."""
        return self._agree(self._clock() - self._saved >= self._checkpoint_seconds)

    def checkpoint(self, step: int, state: Any) -> None:
        """Checkpoint now. Experiments call `save`, which decides when."""
        length = os.fstat(self._metrics).st_size if self._writes else 0
        self._checkpoints.save(int(step), state, {"metrics_bytes": length, "seconds": self.seconds})
        self._saved = self._clock()

    def restore(self, initial_state: Any) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint, or (0, initial_state) in a fresh run.

        `initial_state` gives structure, shapes, dtypes and shardings. Metrics lines logged after the
        checkpoint are dropped: the file ends up as if the run had never been interrupted.
        """
        found = self._checkpoints.restore(initial_state) if self._must_restore else None
        if found is None:
            return 0, initial_state
        self._go_on(found)
        return found.step, found.state

    def saved_steps(self) -> list[int]:
        """Steps that this folder holds a checkpoint of, oldest first."""
        return self._checkpoints.steps() if self._must_restore else []

    def restore_at(self, step: int, initial_state: Any) -> Any:
        """The state of one saved step, or None when that checkpoint is damaged."""
        try:
            found = self._checkpoints.restore(initial_state, at=step)
        except CheckpointError as error:
            self.say(str(error))
            return None
        assert found is not None, f"step {step} was listed and is gone"
        self._go_on(found)
        return found.state

    def restart(self) -> None:
        """Forget what this folder holds of the run: it starts at step 0."""
        self._checkpoints.drop_after(-1)
        if self._writes:
            self._rewind(0)
        self._must_restore = False

    def _go_on(self, found: Restored) -> None:
        for failure in found.beside["passed_over"]:
            self.say(f"a damaged checkpoint was passed over ({failure})")
        self._checkpoints.drop_after(found.step)
        if self._writes:
            self._rewind(int(found.beside["metrics_bytes"]))
        self._before, self._started = float(found.beside["seconds"]), self._clock()
        self._must_restore = False
        self.say(f"resumed at step {found.step}")

    def _rewind(self, length: int) -> None:
        if os.fstat(self._metrics).st_size < length:
            raise folder.FolderError(
                f"{self.workdir / folder.METRICS} is shorter than its checkpoint says; --force starts anew"
            )
        os.ftruncate(self._metrics, length)

    def close(self) -> None:
        """Show what is left and release files."""
        self._show_pending()
        if self._events is not None:
            self._events.close()
        with contextlib.suppress(OSError):
            if self._metrics >= 0:
                os.close(self._metrics)
        self._metrics = -1
        self._checkpoints.close()


def _event_writer(directory: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise folder.FolderError("--tensorboard needs tensorboardX: pip install 'attnreg[tensorboard]'") from error
    return SummaryWriter(str(directory))


def rich_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for the screen: numbers to the right, six significant digits."""
    table = Table(title=title, title_justify="left")
    rows = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float) for row in rows)
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[_short(v) for v in row])
    return table


def _scalar(name: str, value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"record.log({name}=...) has shape {array.shape}; log scalars, or use record.table")
    return array.item() if array.dtype.kind in "biuf" else float(array)


def _cell(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else "" if value is None else _scalar("cell", value)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"
