"""What the scheduler says of the jobs of a sweep: a task whose job waits, or has not come to it yet, is queued.

Each submission leaves `slurm/<time>/jobs.json`: job id to the folders of its tasks. Whether such a job is alive is
asked of `squeue`, never guessed from files.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.runner.config import UsageError
from experiments.runner.store.encoding import read_json, write_json
from experiments.runner.tasks import Status, Task
from experiments.runner.tasks import status as of_folder

JOBS = "jobs.json"
ASK_SECONDS = 60.0
_ID = re.compile(r"\d+(_\d+)?")


def remember(place: Path, jobs: Mapping[str, Sequence[str]]) -> None:
    """Write down which job has the tasks of which folders."""
    write_json(place / JOBS, {job: list(folders) for job, folders in jobs.items()})


def queued(root: Path) -> dict[str, str]:
    """Folder of a task to "job ID STATE", for every job of the sweep in `root` that the scheduler still has.

    Empty where nothing was submitted, or there is no squeue; UsageError where squeue gives no answer.
    """
    submitted = [found for path in sorted((root / "slurm").glob(f"*/{JOBS}")) for found in _read(path)]
    if not submitted or shutil.which("squeue") is None:
        return {}
    alive = _alive()
    return {name: f"job {job} {alive[job]}" for job, folders in submitted if job in alive for name in folders}


def status(task: Task, waiting: Mapping[str, str]) -> Status:
    """The state of a task by its folder, and "queued" where it is not at work but a job of the scheduler has it."""
    found = of_folder(task)
    job = waiting.get(task.workdir.name)
    return Status("queued", job) if job and found.state in ("new", "unfinished") else found


def _read(path: Path) -> list[tuple[str, list[str]]]:
    try:
        found = read_json(path)
    except ValueError:
        return []  # as after a power cut: its jobs are not known, and their tasks are protected by their locks
    if not isinstance(found, dict):
        return []
    return [(job, names) for job, names in found.items() if _ID.fullmatch(job) and isinstance(names, list)]


def _alive() -> dict[str, str]:
    """Job id to state of all jobs of this user that have not ended, one line for each task of an array."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"squeue does not answer ({type(error).__name__}); ask again later") from error
    if done.returncode:
        raise UsageError(f"squeue failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    lines = (line.strip().partition("|") for line in done.stdout.splitlines())
    return {job: state for job, _, state in lines if _ID.fullmatch(job) and state != "COMPLETING"}
