"""One run's metrics and checkpoints, which fit each other at every moment, also after a power cut."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from experiments.runner.store import folder
from experiments.runner.store.checkpoints import CheckpointError, Checkpoints, Restored
from experiments.runner.store.encoding import dumps, lines_with_ends


class Journal:
    """metrics.jsonl and checkpoints/ of one folder. A checkpoint counts on the lines before it, so they go first."""

    def __init__(self, workdir: Path, *, resume: bool, finished: bool = False, primary: bool = True) -> None:
        """`resume`: the folder holds an unfinished run. `finished`: a member of a batch, whose metrics stay."""
        folder.refuse_link(workdir / folder.CHECKPOINTS)
        self.workdir = workdir
        self._path = workdir / folder.METRICS
        self._finished = finished
        self._checkpoints = Checkpoints(workdir / folder.CHECKPOINTS)
        self._clock = time.monotonic
        self._before, self._started = 0.0, self._clock()
        self.must_restore = resume and bool(self._checkpoints.steps())
        self._metrics = -1
        if primary and not finished:
            anew = 0 if self.must_restore else os.O_TRUNC
            self._metrics = folder.open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | anew)

    @property
    def seconds(self) -> float:
        """Seconds this run has worked (monotonic), earlier sessions up to the checkpoint included."""
        return self._before + self._clock() - self._started

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics; a disk that fills up writes a part first, and the next write raises."""
        data = (dumps(line, where="metrics") + "\n").encode()
        written = os.write(self._metrics, data)
        while written < len(data):
            written += os.write(self._metrics, data[written:])

    def checkpoint(self, step: int, state: Any) -> None:
        """Write a checkpoint, once the lines that it counts on are on the disk."""
        if self._metrics >= 0:
            os.fsync(self._metrics)
        self._checkpoints.save(step, state, {"metrics_bytes": self._length(step), "seconds": self.seconds})

    def _length(self, step: int) -> int:
        """How many bytes of the metrics belong to a state at `step`."""
        if self._metrics >= 0:
            return os.fstat(self._metrics).st_size
        if not self._finished or not self._path.exists():
            return 0  # another process writes, and knows
        return max((end for line, end in lines_with_ends(self._path) if line["step"] <= step), default=0)

    def steps(self) -> list[int]:
        """Steps that this folder holds a checkpoint of, oldest first."""
        return self._checkpoints.steps() if self.must_restore else []

    def read(self, step: int, template: Any) -> Restored:
        """The checkpoint of `step`; CheckpointError when it is damaged or the metrics do not reach it."""
        found = self._checkpoints.read(step, template)
        length = int(found.beside["metrics_bytes"])
        if self._metrics >= 0 and length and os.pread(self._metrics, 1, length - 1) != b"\n":
            raise CheckpointError(f"step {step}: {folder.METRICS} is shorter than its checkpoint says")
        return found

    def go_on(self, found: Restored) -> None:
        """Make this folder what it was when `found` was saved."""
        self._rewind(found.step, int(found.beside["metrics_bytes"]))
        self._before, self._started = float(found.beside["seconds"]), self._clock()

    def start_over(self) -> None:
        """Forget what this folder holds of the run: it starts at step 0."""
        self._rewind(-1, 0)

    def _rewind(self, step: int, length: int) -> None:
        self._checkpoints.drop_after(step)
        if self._metrics >= 0:
            os.ftruncate(self._metrics, length)
        self.must_restore = False

    def close(self) -> None:
        """Release files."""
        with contextlib.suppress(OSError):
            if self._metrics >= 0:
                os.close(self._metrics)
        self._metrics = -1
        self._checkpoints.close()
