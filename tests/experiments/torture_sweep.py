"""Kill the workers of a sweep with `kill -9` at random and check that every task is computed, and once.

`python -m tests.experiments.torture_sweep --config configs/selfcheck.py --kills 20 --workdir /tmp/t --jobs 4` on local
processes; with `--submit slurm --slurm time=10` as a Slurm array on this machine. Prints a table; exit code 1 when a
result is missing, was computed twice, or has a metrics line twice.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.runner import results, tasks
from experiments.runner.screen import console
from experiments.runner.sheet import sheet
from experiments.runner.store import folder, lock
from experiments.runner.store.encoding import read_lines


def main(argv: Sequence[str] | None = None) -> int:
    """Torture the sweep on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.torture_sweep", allow_abbrev=False)
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between kills")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--submit", choices=["slurm"], default=None)
    options, rest = parser.parse_known_args(argv)
    overrides = [flag for flag in rest if flag.startswith("--config.")]
    listed = tasks.tasks(options.config, overrides, options.workdir)
    command = [sys.executable, "-m", "experiments.sweep", "--config", options.config, *rest]
    command += [f"--workdir={options.workdir}", "--checkpoint-seconds=0", "--max-deaths=1000"]
    started = time.monotonic()
    killed = _slurm(command, listed, options) if options.submit else _local(command, listed, options)
    return _report(options.workdir, listed, killed, time.monotonic() - started)


def _local(command: list[str], listed: Sequence[tasks.Task], options: argparse.Namespace) -> int:
    driver = subprocess.Popen(command)
    killer = _Killer(listed, options)
    while driver.poll() is None:
        killer.turn()
    return killer.kills


def _slurm(command: list[str], listed: Sequence[tasks.Task], options: argparse.Namespace) -> int:
    """Submit; what a killed job has left undone is submitted again, as a user would."""
    killer = _Killer(listed, options)
    while any(tasks.status(task).state != "finished" for task in listed):
        subprocess.run([*command, "--submit", options.submit], check=True)
        while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip():
            killer.turn()
    return killer.kills


class _Killer:
    """Kills a random worker that is at work, now and then, until its kills are used up."""

    def __init__(self, listed: Sequence[tasks.Task], options: argparse.Namespace) -> None:
        self.kills = 0
        self._listed, self._most, self._pause = listed, options.kills, options.pause
        self._random = random.Random(0)
        self._next = time.monotonic() + options.pause

    def turn(self) -> None:
        """Wait a little, and kill when it is time."""
        time.sleep(0.2)
        if self.kills >= self._most or time.monotonic() < self._next:
            return
        running = [task for task in self._listed if tasks.status(task).state == "running"]
        if not running:
            return
        victim = lock.held(self._random.choice(running).workdir)
        if victim is not None:
            try:
                os.kill(victim.process, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.kills += 1
            self._next = time.monotonic() + self._random.expovariate(1 / self._pause)


def _report(root: Path, listed: Sequence[tasks.Task], killed: int, seconds: float) -> int:
    rows, _, missing = results.gather(root)
    done: Counter[str] = Counter()
    for log in [*root.glob("logs/*.log"), *root.glob("slurm/*/*_log.out")]:
        done.update(line for line in log.read_text().splitlines() if line.endswith(": exit code 0"))
    twice = sum(1 for count in done.values() if count > 1)
    repeated = 0
    for task in listed:
        steps = [line["step"] for line in read_lines(task.workdir / folder.METRICS)]
        repeated += len(steps) != len(set(steps)) or steps != sorted(steps)
    restarted = sum(row["sessions"] > 1 for row in rows)
    columns = ("tasks", "results", "kills", "tasks restarted", "finished twice", "metrics repeated", "seconds")
    values = (len(listed), len(rows), killed, restarted, twice, repeated, round(seconds))
    console().print(sheet("sweep under kill -9", columns, [values]))
    return 1 if missing or twice or repeated or len(rows) != len(listed) else 0


if __name__ == "__main__":
    sys.exit(main())
