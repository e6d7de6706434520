"""A sweep on local processes: start workers, replace those that die, show progress, stop them when asked."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.console import Group
from rich.live import Live
from rich.text import Text

from experiments.runner import devices, worker, worklist
from experiments.runner.command import EXIT_FILES, EXIT_USAGE
from experiments.runner.config import UsageError
from experiments.runner.screen import console
from experiments.runner.signals import EXIT_PREEMPTED, Stop
from experiments.runner.store import lock
from experiments.runner.tasks import Task, status

POLL_SECONDS = 0.5


class _Worker:
    """One worker process and its log."""

    def __init__(self, number: int, work: Path, open_before: int, share: Mapping[str, str]) -> None:
        """`share`: what its environment says of devices, beside that of the sweep."""
        self.number, self.open_before, self.share = number, open_before, share
        self._log: IO[bytes] = open(work.parent / f"worker-{number}.log", "ab")  # noqa: SIM115
        arguments = [sys.executable, "-m", worker.__name__, str(work)]
        self.process = subprocess.Popen(arguments, env=os.environ | share, stdout=self._log, stderr=subprocess.STDOUT)

    def ended(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self._log.close()
        return code


def drive(root: Path, work: worklist.Worklist, *, jobs: int, max_deaths: int) -> int:
    """Run the units on `jobs` worker processes until none is left; the exit code of the sweep."""
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one process is needed")
    given = devices.shares(jobs, devices.machine(os.environ) if jobs > 1 else devices.Machine("cpu", 1), os.environ)
    if given.words:
        console().print(given.words)
    file = root / "logs" / f"work-{os.getpid()}-{time.time_ns()}.json"
    worklist.write(file, work)
    try:
        return _drive(file, work.units, given.environments, max_deaths)
    finally:
        file.unlink(missing_ok=True)


def _drive(file: Path, units: Sequence[worklist.Unit], shares: Sequence[Mapping[str, str]], max_deaths: int) -> int:
    listed = [task for unit in units for task in unit]
    waiting = sum(bool(_open(unit)) for unit in units)
    deaths: Counter[int] = Counter()
    code, stopping = 0, False
    with Stop() as stop, _Progress(listed) as progress:
        workers = [_Worker(n, file, len(_open(listed)), share) for n, share in enumerate(shares[:waiting])]
        while workers:
            time.sleep(POLL_SECONDS)
            if stop.requested and not stopping:
                stopping = True
                for alive in workers:
                    alive.process.send_signal(signal.SIGTERM)
            for done in [w for w in workers if w.ended() is not None]:
                workers.remove(done)
                ended = done.process.returncode
                if ended < 0:
                    _count_death(listed, done.process.pid, ended, deaths, max_deaths)
                code = ended if ended in (EXIT_USAGE, EXIT_FILES) else code
                left = _open(listed)
                # A worker that left by itself and changed nothing would leave again: no use in another one.
                useful = ended < 0 or ended == EXIT_PREEMPTED or len(left) < done.open_before
                if left and useful and not stopping and code == 0:
                    workers.append(_Worker(done.number, file, len(left), done.share))
            progress.show(len(workers))
    return EXIT_PREEMPTED if stopping else code


def _open(listed: Sequence[Task]) -> list[Task]:
    """The tasks that are neither finished nor failed nor held by anyone alive."""
    return [task for task in listed if status(task).state in ("new", "unfinished")]


def _count_death(listed: Sequence[Task], process: int, code: int, deaths: Counter[int], max_deaths: int) -> None:
    for task in listed:
        holder = lock.last_holder(task.workdir)
        if holder is not None and holder.process == process and status(task).state == "unfinished":
            deaths[task.number] += 1
            if deaths[task.number] >= max_deaths:
                worker.died(task, code, deaths[task.number])


class _Progress:
    """The live table on a terminal; elsewhere a line whenever the counts have changed, at most every 10 s."""

    def __init__(self, listed: Sequence[Task]) -> None:
        self._listed = listed
        self._screen = console()
        self._live = Live(console=self._screen, refresh_per_second=2) if self._screen.is_terminal else None
        self._shown, self._last, self._started = 0.0, "", time.monotonic()

    def __enter__(self) -> "_Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, workers: int) -> None:
        """Print the counts; `workers` processes are at work."""
        now = time.monotonic()
        if now - self._shown < (1.0 if self._live else 10.0):
            return
        states = {task.number: status(task) for task in self._listed}
        counts = Counter(s.state for s in states.values())
        parts = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        if self._live:
            running = [f"  task {i} ({s.detail})" for i, s in states.items() if s.state == "running"]
            head = f"{parts} of {len(states)} tasks, {workers} workers, {now - self._started:.0f} s"
            self._live.update(Group(Text(head), *map(Text, running)))
        elif parts != self._last:
            self._screen.print(f"{parts} of {len(states)} tasks, {workers} workers")
        self._shown, self._last = now, parts
