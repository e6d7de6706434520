"""kill -9: of runs at random moments, and of the process groups of sweeps, then the same command at once."""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.runner import tasks
from tests.attack.bench import CONFIG, Attempt, Bench
from tests.experiments import torture

ROOT = Path(__file__).parents[2]
SLOW = ("--config.pause=0.02", "--config.steps=200")


def attempts(bench: Bench, times: int, seed: int) -> Iterator[Attempt]:
    """A run under `times` kills, and a sweep whose process group is killed after times/5 moments."""
    yield Attempt("kill -9", f"a run under {times} kills", functools.partial(_run, times, seed))
    for i in range(max(1, times // 5)):
        yield Attempt("kill -9 of a group", f"sweep {i}", functools.partial(_group, random.Random(f"{seed}-{i}")))


def _run(times: int, seed: int, place: Path) -> str | None:
    flags = ["--config", CONFIG, *SLOW, "--kills", str(times), "--seed", str(seed), f"--workdir={place}"]
    return None if torture.main(flags) == 0 else "a killed run differs"


def _group(draw: random.Random, place: Path) -> str | None:
    command = [sys.executable, "-m", "experiments.sweep", "--config", CONFIG, f"--workdir={place / 's'}", *SLOW]
    command += ["--checkpoint-seconds=0", "--jobs=2"]
    group = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    listed = tasks.tasks(CONFIG, list(SLOW), place / "s")
    deadline = time.monotonic() + 120
    while not any(listed[0].workdir.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(draw.uniform(0, 3))
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    states = [tasks.status(task).state for task in listed]
    if again.returncode or set(states) != {"finished"}:
        return f"exit code {again.returncode}, {states}: {again.stderr[-200:]}"
    return None
