"""Sweeps on Slurm, through submitit: one array, one unit (or a pack of them) a job, requeued when stopped early."""

import argparse
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runner import queue, worklist
from experiments.runner.config import UsageError, load_module, split_spec
from experiments.runner.worklist import Unit, Worklist

# What a user may set, as sbatch names it; anything that would reach a shell (setup, srun_args) is not here.
OPTIONS: dict[str, type] = {
    "account": str,
    "constraint": str,
    "cpus_per_task": int,
    "dependency": str,
    "exclude": str,
    "exclusive": bool,
    "gpus_per_node": int,
    "gpus_per_task": int,
    "gres": str,
    "mem": str,
    "nodelist": str,
    "nodes": int,
    "ntasks_per_node": int,
    "partition": str,
    "qos": str,
    "signal_delay_s": int,
    "time": int,  # minutes
}
# Slurm may send the warning signal up to a minute early; a job must have started by then, or it dies of it.
EARLY_SECONDS, START_SECONDS = 60, 60
DEFAULTS = {"time": 60, "signal_delay_s": 120}
GRACE_SECONDS = 60.0


class Job:
    """What one Slurm job runs: commands one after another, a killed one again; saved and requeued when signalled."""

    def __init__(self, commands: Sequence[Sequence[str]], *, max_deaths: int) -> None:
        """`commands` are argument lists after `python`, run from the current directory, never by a shell."""
        self.commands = [list(command) for command in commands]
        self.max_deaths = max_deaths
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> list[int]:
        """Run to the end and return the exit codes."""
        return [self._run(command) for command in self.commands]

    def _run(self, command: Sequence[str]) -> int:
        code = 0
        for _ in range(self.max_deaths):
            self._child = subprocess.Popen([sys.executable, *command])
            while self._child.poll() is None:
                time.sleep(0.1)  # not wait(): the signal handler must be able to look at the child too
            code = self._child.returncode
            if code >= 0:
                break
            print(f"killed by signal {-code}, starting again: {command}", flush=True)
        return code

    def checkpoint(self) -> Any:
        """Called by submitit in its signal handler: make the child save and stop, then ask to be requeued."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None and _running(self._child.pid):
            os.kill(self._child.pid, signal.SIGUSR1)
            deadline = time.monotonic() + GRACE_SECONDS
            while _running(self._child.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
        return DelayedSubmission(Job(self.commands, max_deaths=self.max_deaths))


def _running(process: int) -> bool:
    """Whether our child still runs, without collecting its exit code."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def submit(root: Path, work: Worklist, options: argparse.Namespace) -> int:
    """Submit what is not finished as one array; returns at once."""
    parameters = slurm_options(options.config, options.slurm)
    if options.pack < 1:
        raise UsageError(f"--pack {options.pack}: at least one task a job")
    waiting = queue.queued(root)
    left = [unit for unit in work.units if any(queue.status(t, waiting).state in ("new", "unfinished") for t in unit)]
    if not left:
        print(f"nothing to submit: all {len(work.units)} units are finished, failed, running or queued")
        return 0
    try:
        import submitit
    except ImportError as error:
        raise UsageError("--submit slurm needs submitit: pip install 'attnreg[slurm]'") from error
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
    place = root.absolute() / "slurm" / stamp
    packs = [left[i : i + options.pack] for i in range(0, len(left), options.pack)]
    if _processes(parameters) == 1:
        jobs = [
            Job([worker_command(place / f"work-{i}.json", pack, work)], max_deaths=options.max_deaths)
            for i, pack in enumerate(packs)
        ]
    else:
        jobs = [Job(_distributed(place, i, pack, work), max_deaths=1) for i, pack in enumerate(packs)]
    executor = submitit.SlurmExecutor(folder=place, max_num_timeout=1000)
    # The job ends by its own exit code; submitit's default of killing all tasks on one bad exit would hide it.
    executor.update_parameters(**parameters, array_parallelism=options.jobs or 256, job_name=root.name)
    with executor.batch():  # one array
        submitted = [executor.submit(job) for job in jobs]
    folders = ([task.workdir.name for unit in pack for task in unit] for pack in packs)
    queue.remember(place, {job.job_id: names for job, names in zip(submitted, folders, strict=True)})
    array = submitted[0].job_id.split("_")[0]
    what = f"{len(submitted)} jobs as array" if len(submitted) > 1 else "one job:"
    print(f"submitted {what} {array}; their output is in {executor.folder}")
    print("see them with `squeue --me`, the tasks with the same command and --list; submit again for what was lost")
    return 0


def worker_command(file: Path, units: Sequence[Unit], work: Worklist) -> list[str]:
    """The arguments after `python` of a worker for some units, whose worklist is written to `file`."""
    worklist.write(file, work._replace(units=units))
    return ["-m", "experiments.runner.worker", str(file)]


def _distributed(place: Path, pack_number: int, pack: Sequence[Unit], work: Worklist) -> list[list[str]]:
    """A worker for each task, alike in every process of the job: JAX's processes meet once, and end together."""
    if any(len(unit) > 1 for unit in pack):
        raise UsageError("--batch is for tasks of one process each; leave it or --slurm nodes, ntasks_per_node out")
    work = work._replace(distributed=True)
    return [worker_command(place / f"work-{pack_number}-{i}.json", [unit], work) for i, unit in enumerate(pack)]


def _processes(parameters: Mapping[str, Any]) -> int:
    return parameters.get("nodes", 1) * parameters.get("ntasks_per_node", 1)


def slurm_options(spec: str, flags: Sequence[str]) -> dict[str, Any]:
    """The config's `slurm()` beside `get_config`, if any, overridden by `--slurm name=value` flags, checked."""
    path, _ = split_spec(spec)
    module = load_module(path)
    found: dict[str, Any] = dict(DEFAULTS) | dict(module.slurm() if hasattr(module, "slurm") else {})
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise UsageError(f"--slurm {flag}: write --slurm name=value")
        found[name] = _parse(name, text)
    for name, value in found.items():
        if name not in OPTIONS:
            raise UsageError(f"no Slurm option {name!r}; there are {', '.join(OPTIONS)}")
        wrong = not isinstance(value, OPTIONS[name]) or (isinstance(value, bool) and OPTIONS[name] is int)
        if wrong or (isinstance(value, str) and not value.isprintable()):
            raise UsageError(f"Slurm option {name} is {value!r}; it must be a {OPTIONS[name].__name__}")
        if (
            isinstance(value, int)
            and OPTIONS[name] is int
            and value < int(name not in ("gpus_per_node", "gpus_per_task"))
        ):
            raise UsageError(f"Slurm option {name} is {value}; it must be positive")
    least = found["signal_delay_s"] + EARLY_SECONDS + START_SECONDS
    if found["time"] * 60 < least:
        raise UsageError(
            f"--slurm time={found['time']} is too short: with signal_delay_s={found['signal_delay_s']} it must be at "
            f"least {-(-least // 60)} minutes: Slurm may warn {EARLY_SECONDS} s early, and the job must have started"
        )
    return found


def _parse(name: str, text: str) -> Any:
    kind = OPTIONS.get(name, str)
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UsageError(f"--slurm {name}={text}: it must be a {kind.__name__}") from None
