"""A worker of a sweep: takes tasks nobody holds, one after another, until none is left to take."""

import contextlib
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console

from experiments.runner import execute as execution
from experiments.runner import process
from experiments.runner.batch import Records
from experiments.runner.config import UsageError
from experiments.runner.record import Record
from experiments.runner.signals import EXIT_PREEMPTED, Preempted, Stop
from experiments.runner.store import environment, folder
from experiments.runner.store.checkpoints import CheckpointError
from experiments.runner.store.encoding import write_json
from experiments.runner.tasks import Task, status


def work(
    units: Sequence[Sequence[Task]],
    settings: execution.Settings,
    *,
    retry: bool = False,
    say: Callable[[str], None],
) -> int:
    """Run every unit (a task, or a batch of them) that is neither finished, failed nor held; the exit code.

    The lock of a task's folder is the only coordination, so any number of workers may work at the same sweep.
    """
    code = 0
    for unit in units:
        states = [status(task).state for task in unit]
        if all(s in ("finished", "running") or (s == "failed" and not retry) for s in states):
            continue
        names = ", ".join(str(task.number) for task in unit)
        say(f"task {names}")
        try:
            done = _single(unit[0], settings) if len(unit) == 1 else _batch(unit, settings)
        except folder.Locked:
            continue
        except (UsageError, folder.FolderError, CheckpointError) as error:
            _note(unit, error)
            done = execution.EXIT_FAILED
        say(f"task {names}: exit code {done}")
        if done == EXIT_PREEMPTED:
            return done
        code = code or done
    return code


def _note(unit: Sequence[Task], error: Exception) -> None:
    """Keep why a unit could not even start, in those of its folders that are this run's."""
    for task in unit:
        if (task.workdir / folder.CONFIG).exists() and not (task.workdir / folder.RESULT).exists():
            with contextlib.suppress(OSError):
                write_json(task.workdir / folder.FAILURE, execution.failure(error))


def _single(task: Task, settings: execution.Settings) -> int:
    task.workdir.mkdir(parents=True, exist_ok=True)
    with open(task.workdir / folder.LOG, "a", buffering=1) as log:
        return execution.execute(task.resolved, task.workdir, settings, screen=_screen(log))


def _screen(log: object) -> Console:
    return Console(file=log, width=160, highlight=False, markup=False, emoji=False)  # pyright: ignore[reportArgumentType]


def _batch(unit: Sequence[Task], settings: execution.Settings) -> int:
    """Run a batch under the locks of all its members; finished members are computed, not rewritten."""
    first = unit[0].resolved.config
    with process.precision(first.precision), contextlib.ExitStack() as stack:
        module = execution.experiment_module(first.experiment)
        held = []
        for task in unit:
            stack.callback(folder.Lock(task.workdir).release)
            held.append(execution.prepare(task.resolved, task.workdir, settings))
        log = stack.enter_context(open(unit[0].workdir / folder.LOG, "a", buffering=1))
        stop = stack.enter_context(Stop())
        members = [
            Record(
                task.workdir,
                resume=state is not folder.State.EMPTY,
                writes=state is not folder.State.FINISHED,
                screen=_screen(log),
                stop=stop,
                checkpoint_seconds=settings.checkpoint_seconds,
            )
            for task, state in zip(unit, held, strict=True)
        ]
        for member in members:
            stack.callback(member.close)
        return _run_batch(module, unit, members)


def _run_batch(module: object, unit: Sequence[Task], members: Sequence[Record]) -> int:
    try:
        results = module.run_batch([t.resolved.config for t in unit], Records(members))  # pyright: ignore[reportAttributeAccessIssue]
        if len(results) != len(unit):
            raise ValueError(f"run_batch returned {len(results)} results for {len(unit)} configs")
        for task, result in zip(unit, results, strict=True):
            if not (task.workdir / folder.RESULT).exists():
                execution.finish(task.workdir, result)
    except Preempted:
        return EXIT_PREEMPTED
    except Exception as error:
        traceback.print_exception(error)
        _note(unit, error)
        return execution.EXIT_FAILED
    return 0


def died(task: Task, code: int, times: int) -> None:
    """Mark a task on which worker after worker died, so that it does not take the sweep down with it."""
    session = {
        "error": "WorkerDied",
        "message": f"{times} workers died on it, the last with exit code {code}",
    }
    write_json(task.workdir / folder.FAILURE, session | {"traceback": "", "time": environment.now()})
