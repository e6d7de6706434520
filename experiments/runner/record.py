"""`record`: the only way an experiment leaves something behind, and the only thing it needs to resume."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner.journal import Journal
from experiments.runner.screen import duration, short
from experiments.runner.session import Session
from experiments.runner.sheet import Sheet, sheet
from experiments.runner.sinks import Sink, numbers
from experiments.runner.store import arrays as archives
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_atomic, write_json


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
        writes: bool = True,
        session: Session | None = None,
        sinks: Sequence[Sink] = (),
        figures: Sequence[str] = (),
    ) -> None:
        """`writes`: this folder is not finished; the primary process writes, and prints all the same.

        `sinks` get the numbers of what is logged here, and are closed with the record. `figures`: formats beside PNG,
        "svg" or "pdf".
        """
        self.workdir = workdir
        self.tables: dict[str, Sheet] = {}
        self._formats = ("png", *figures)
        self._captions: dict[str, str] = {}
        self.session = session or Session()
        self.writes = writes and self.session.primary
        self.journal = Journal(workdir, resume=resume, finished=not writes, primary=self.session.primary)
        self._expected: int | None = None
        self._sinks = sinks

    # --- what happened -------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds this run has worked (monotonic), earlier sessions up to the checkpoint included."""
        return self.journal.seconds

    def log(self, step: int, **scalars: Any) -> None:
        """Append one line to metrics.jsonl, `step` and `time` in seconds included, and show progress."""
        if self.journal.must_restore:
            raise RuntimeError("this folder holds a checkpoint: call record.restore(initial_state) before record.log")
        taken = {"step", "time"} & scalars.keys()
        if taken:
            raise ValueError(f"record.log keeps the name {taken.pop()!r} for itself; choose another")
        self.session.began = True
        if not self.writes:
            return
        line = {"step": int(step), "time": round(self.seconds, 6)} | {k: _scalar(k, v) for k, v in scalars.items()}
        self.journal.append(line)
        for sink in self._sinks:
            sink.log(int(step), numbers(line))
        self._progress(int(step), line)

    def expect(self, steps: int) -> None:
        """Tell the progress bar how many steps the run will take."""
        self._expected = int(steps)

    def _progress(self, step: int, line: dict[str, Any]) -> None:
        numbers = "  ".join(f"{k} {short(v)}" for k, v in line.items() if k not in ("step", "time"))
        self.session.progress(step, self._expected, f"{numbers}  {duration(self.seconds)}")

    def say(self, text: str) -> None:
        """Print a line of text."""
        self.session.say(text)

    # --- what stays ----------------------------------------------------------------------------------------

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        caption: str = "",
        keep: Sequence[str] = (),
    ) -> None:
        """Keep a table as tables/<name>.csv in full precision; print it, rounded, at the end of the run.

        Args:
            name: a plain file name without suffix.
            columns: their names.
            rows: cells, one a column; None is an empty one.
            caption: a sentence on what the rows are, for the report.
            keep: the columns that stay on a screen too narrow for all.
        """
        rows = [[_cell(v) for v in row] for row in rows]
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {name!r} has {len(columns)} columns, a row has {len(row)}: {row}")
        file = f"{folder.file_name(name)}.csv"
        if not self.writes:
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([list(columns), *rows])
        write_atomic(folder.subfolder(self.workdir, folder.TABLES) / file, text.getvalue().encode())
        self._caption(f"{folder.TABLES}/{name}", caption)
        self.tables[name] = sheet(name, columns, rows, keep=keep)

    def figure(self, name: str, figure: Any, *, caption: str = "") -> Path:
        """Keep a matplotlib figure as figures/<name>.png, close it, and return the path.

        `caption`: what is plotted, over how many runs or seeds, for the report.
        """
        import matplotlib.pyplot as plt

        path = self.workdir / folder.FIGURES / f"{folder.file_name(name)}.png"
        if self.writes:
            self.session.stage("drawing")
            for suffix in self._formats:
                image = io.BytesIO()
                figure.savefig(image, format=suffix)
                made = folder.subfolder(self.workdir, folder.FIGURES) / path.with_suffix(f".{suffix}").name
                write_atomic(made, image.getvalue())
            self._caption(f"{folder.FIGURES}/{name}", caption)
        plt.close(figure)
        return path

    def _caption(self, what: str, text: str) -> None:
        """Keep what is said of a table or a figure; every one has an entry, in the order in which they were made."""
        self._captions[what] = text
        write_json(self.workdir / folder.CAPTIONS, self._captions)

    def arrays(self, name: str, /, **arrays: Any) -> Path:
        """Keep arrays as <name>.npz and return the path; `experiments.runner.store.arrays.load` reads them.

        Args:
            name: a plain file name without suffix; "solution" for what the run found.
            arrays: NumPy or JAX arrays of numbers, any shape and dtype, on any devices of this process.
        """
        path = self.workdir / f"{folder.file_name(name)}.npz"
        host = archives.on_host(arrays)
        if self.writes:
            archives.write(path, host)
        return path

    # --- stopping and going on -----------------------------------------------------------------------------

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for; the next `save` acts on it. On many processes: a collective."""
        return self.session.should_stop

    def save(self, step: int, state: Any) -> None:
        """Checkpoint `state` when one is due (`checkpoint_seconds`) or a stop was asked for, and then stop.

        `state` is a pytree of arrays, typed PRNG keys and Python numbers: all that the rest of the run
        depends on. Call it at every chunk boundary, after the `log` calls of the chunk, on all processes.
        """
        self.session.save([self.journal], int(step), [state])

    def restore(self, initial_state: Any) -> tuple[int, Any]:
        """(step, state) of the newest checkpoint, or (0, initial_state) in a fresh run.

        `initial_state` gives structure, shapes, dtypes and shardings. Metrics lines logged after the
        checkpoint are dropped: the file ends up as if the run had never been interrupted.
        """
        found = self.session.restore([self.journal], [initial_state])
        return (found[0], found[1][0]) if found else (0, initial_state)

    def close(self) -> None:
        """Show what is left and release files."""
        self.session.close()
        sinks, self._sinks = self._sinks, ()
        for sink in sinks:
            sink.close()
        self.journal.close()


def _scalar(name: str, value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    array = np.asarray(value)
    if array.ndim:
        raise ValueError(f"record.log({name}=...) has shape {array.shape}; log scalars, or use record.table")
    return array.item() if array.dtype.kind in "biuf" else float(array)


def _cell(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else "" if value is None else _scalar("cell", value)
