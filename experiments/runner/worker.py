"""A worker of a sweep: takes tasks nobody holds, one after another, until none is left to take.

`python -m experiments.runner.worker FILE` is how a sweep starts its children, here or in a Slurm job; FILE is a
worklist. A task is run by hand with the command that `--list` shows, or with `--index`.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.runner import distributed, execute, worklist
from experiments.runner.command import EXIT_FAILED, USAGE, command
from experiments.runner.distributed import ALONE, Place
from experiments.runner.screen import console
from experiments.runner.signals import EXIT_PREEMPTED, Stop
from experiments.runner.store import environment, folder
from experiments.runner.store.encoding import write_json
from experiments.runner.store.lock import Locked
from experiments.runner.tasks import Task, status


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the worklist on the command line says; the exit code."""
    (path,) = sys.argv[1:] if argv is None else argv
    return command(lambda: _main(Path(path)), computes=True)


def _main(path: Path) -> int:
    work_to_do = worklist.read(path)
    here = distributed.join_cluster() if work_to_do.distributed else ALONE
    return work(work_to_do.units, work_to_do.settings, here=here, say=lambda text: print(text, flush=True))


def work(
    units: Sequence[worklist.Unit],
    settings: execute.Settings,
    *,
    say: Callable[[str], None],
    here: Place = ALONE,
) -> int:
    """Run every unit (a task, or a batch of them) that is neither finished, failed nor held; the exit code.

    The lock of a task's folder is the only coordination, so any number of workers may work at the same sweep.
    """
    code = 0
    with Stop() as stop:
        for unit in units:
            idle = here.primary and all(status(task).state in ("finished", "running", "failed") for task in unit)
            if distributed.agree(idle):
                continue
            names = ", ".join(str(task.number) for task in unit)
            say(f"task {names}")
            try:
                done = _run(unit, settings, here, stop)
            except Locked:
                continue
            except USAGE as error:
                say(f"error: {error}")
                if here.primary:
                    execute.note_failure([task.run for task in unit], error)
                done = EXIT_FAILED
            say(f"task {names}: exit code {done}")
            if done == EXIT_PREEMPTED or stop.requested is not None:
                return EXIT_PREEMPTED
            code = code or done
    return code


def _run(unit: worklist.Unit, settings: execute.Settings, here: Place, stop: Stop) -> int:
    runs = [task.run for task in unit]
    if not here.primary:
        return execute.execute(runs, settings, here=here, stop=stop)
    return execute.execute(runs, settings, screen=console(quiet=True), here=here, stop=stop)


def died(task: Task, code: int, times: int) -> None:
    """Mark a task on which worker after worker died, so that it does not take the sweep down with it."""
    session = {
        "error": "WorkerDied",
        "message": f"{times} workers died on it, the last with exit code {code}",
    }
    write_json(task.workdir / folder.FAILURE, session | {"traceback": "", "time": environment.now()})


if __name__ == "__main__":
    sys.exit(main())
