"""Run resolved configs in their folders: claim them, run or resume or report, and leave result or failure behind."""

import contextlib
import importlib
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from attnreg.problems.checks import ProblemError
from experiments.runner import distributed, process
from experiments.runner.batch import Records
from experiments.runner.command import DISK, EXIT_FAILED, EXIT_USAGE, USAGE
from experiments.runner.config import Run, UsageError
from experiments.runner.distributed import ALONE, Place
from experiments.runner.record import Record
from experiments.runner.results import tables
from experiments.runner.screen import console, rich_table
from experiments.runner.session import CHECKPOINT_SECONDS, Session
from experiments.runner.signals import EXIT_PREEMPTED, Preempted, Stop
from experiments.runner.store import environment, folder
from experiments.runner.store.encoding import plain, write_json
from experiments.runner.store.folder import State
from experiments.runner.store.lock import Lock

_STATES = list(State)


class Settings(NamedTuple):
    """How to run, as opposed to what: nothing here changes a result."""

    force: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    tensorboard: bool = False


def execute(
    runs: Sequence[Run],
    settings: Settings,
    *,
    screen: Console | None = None,
    here: Place = ALONE,
    stop: Stop | None = None,
) -> int:
    """Run, resume or report resolved configs as one program, most often a batch of one; the exit code.

    On many processes: on all of them. Runs that are finished take part, so that the program stays the same, and are
    not rewritten. What the user must put right is raised (`command.USAGE`, OSError).
    """
    screen = screen or console()
    config = runs[0].resolved.config
    with process.precision(config.precision):
        module = experiment_module(config.experiment)
        if why := _refusal(config, module, here):
            if here.primary:
                raise UsageError(why)
            return EXIT_USAGE  # process 0 says why
        with _claimed(runs, settings, here) as held:
            if held is None:
                return EXIT_USAGE  # process 0 says why
            if any(state is not State.FINISHED for state in held):
                session = Session(
                    screen=screen,
                    checkpoint_seconds=settings.checkpoint_seconds,
                    primary=here.primary,
                    agree=distributed.agree,
                )
                with contextlib.nullcontext(stop) if stop else Stop() as session.stop:
                    return _work(module, runs, held, session, settings)
        if here.primary:
            for run in runs:
                _report_finished(run, screen)
        return 0


def experiment_module(name: str) -> types.ModuleType:
    """The module `experiments.<name>`; UsageError when it is absent or has neither `run` nor `run_batch`."""
    full = f"experiments.{name}"
    path = f"{full.replace('.', '/')}.py"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not f"{full}.".startswith(f"{error.name}."):
            needs = f"experiment {name!r} needs the package {error.name!r}, which is not installed"
            raise UsageError(f"{needs}: pip install {error.name}") from error
        raise UsageError(f"config.experiment is {name!r}, but there is no {path}") from error
    if not batched(module) and not callable(getattr(module, "run", None)):
        raise UsageError(f"{path} has no run(config, record), and no BATCHED with run_batch(configs, records)")
    return module


def batched(module: types.ModuleType) -> bool:
    """Whether an experiment runs many configs as one program: it has `run_batch` and names the fields, `BATCHED`."""
    return callable(getattr(module, "run_batch", None)) and hasattr(module, "BATCHED")


def _refusal(config: Any, module: types.ModuleType, here: Place) -> str:
    """Why this experiment is not run on these processes and devices, alike on all of them; "" where it is."""
    if here.processes > 1 and not shared(module):
        return (
            f"experiment {config.experiment!r} cannot share its work: each of {here.processes} processes would do all "
            "of it; run it as one process (a sweep: --jobs N, or --submit slurm without nodes and ntasks_per_node)"
        )
    if config.precision == "float64" and jax.default_backend() == "tpu":
        return (
            "config.precision is 'float64', which a TPU emulates slowly and with the range of float32; "
            "use --config.precision=float32, or JAX_PLATFORMS=cpu"
        )
    return ""


def shared(module: types.ModuleType) -> str:
    """What the processes of a run share of an experiment's work, in words: its `SHARED`; "" when it cannot."""
    return getattr(module, "SHARED", "")


@contextlib.contextmanager
def _claimed(runs: Sequence[Run], settings: Settings, here: Place) -> Iterator[list[State] | None]:
    """What the folders held, their locks taken by process 0; all processes get the same answer, None for an error."""
    with contextlib.ExitStack() as stack:
        held, error = [], None
        if here.primary:
            try:
                held = _claim(runs, settings, stack)
            except (folder.FolderError, OSError) as caught:
                error = caught
        failed = distributed.agree(error is not None)
        if error is not None:
            raise error
        if failed:
            yield None
            return
        codes = [_STATES.index(held[i]) if here.primary else 0 for i in range(len(runs))]
        yield [_STATES[distributed.gather(code)[0]] for code in codes]


def _claim(runs: Sequence[Run], settings: Settings, stack: contextlib.ExitStack) -> list[State]:
    # Refuse, or report, before anything is written, the lock too: a finished folder may be read-only.
    found = []
    for run in runs:
        if settings.force:
            folder.refuse_foreign(run.workdir)
        else:
            found.append(folder.state(run.workdir, run.resolved.config.to_dict()))
    if found and all(state is State.FINISHED for state in found):
        return found
    for run in runs:
        stack.callback(Lock(run.workdir).release)
    return [_prepare(run, settings) for run in runs]


def _prepare(run: Run, settings: Settings) -> State:
    """Make a folder, whose lock is held, this run's; what it held before."""
    config = run.resolved.config.to_dict()
    if settings.force:
        folder.set_aside(run.workdir)
    held = State.EMPTY if settings.force else folder.state(run.workdir, config)
    if held is State.EMPTY:
        write_json(run.workdir / folder.CONFIG, config)
    if held is not State.FINISHED:
        environment.append(run.workdir / folder.ENVIRONMENT, environment.describe(config["precision"]))
        (run.workdir / folder.FAILURE).unlink(missing_ok=True)
    return held


def _work(
    module: types.ModuleType, runs: Sequence[Run], held: Sequence[State], session: Session, settings: Settings
) -> int:
    with contextlib.ExitStack() as stack:
        records = []
        for run, state in zip(runs, held, strict=True):
            resume, writes = state is not State.EMPTY, state is not State.FINISHED
            record = Record(run.workdir, resume=resume, writes=writes, session=session, events=settings.tensorboard)
            stack.callback(record.close)
            records.append(record)
            session.say(f"{'resuming' if resume else 'running'} {run.resolved.spec} in {run.workdir}")
        if jax.device_count() > 1 and shared(module):
            many = f"{jax.process_count()} processes with " if jax.process_count() > 1 else ""
            session.say(f"{many}{jax.device_count()} devices share {shared(module)}")
        try:
            results = _call(module, runs, records)
            for run, record, result in zip(runs, records, results, strict=True):
                content = _checked(result)
                if record.writes:
                    write_json(run.workdir / folder.RESULT, content)
            distributed.gather(0)  # nobody leaves before the results are on disk
        except Preempted:
            return EXIT_PREEMPTED
        except USAGE:
            raise
        except ProblemError as error:
            if session.began:
                return _failed(error, runs, session)
            raise UsageError(str(error)) from error  # data and options come from the config
        except Exception as error:
            return _failed(error, runs, session)
        for run, record in zip(runs, records, strict=True):
            record.close()
            for table in record.tables.values():
                session.screen.print(table)
            session.say(f"finished in {record.seconds:.1f} s: {run.workdir / folder.RESULT}")
    return 0


def _call(module: types.ModuleType, runs: Sequence[Run], records: Sequence[Record]) -> list[Any]:
    """One result a run: of `run_batch`, or of `run` for the only one."""
    configs = [run.resolved.config for run in runs]
    if not batched(module):
        return [module.run(config, record) for config, record in zip(configs, records, strict=True)]
    results = module.run_batch(configs, Records(records))
    if not isinstance(results, list | tuple) or len(results) != len(configs):
        raise TypeError(f"run_batch must return a list of {len(configs)} results, one a config")
    return list(results)


def _checked(result: Any) -> Any:
    if not isinstance(result, dict) or not result:
        raise TypeError(f"an experiment returned {type(result).__name__} {result!r}; a result is a dict with entries")
    return plain(result, "result")


def _failed(error: Exception, runs: Sequence[Run], session: Session) -> int:
    """Print and keep the reason; a full or read-only disk is named as such by the caller."""
    if isinstance(error, OSError) and error.errno in DISK:
        raise error
    traceback.print_exception(error)
    if session.primary:
        note_failure(runs, error)
    return EXIT_FAILED


def note_failure(runs: Sequence[Run], error: Exception) -> None:
    """Keep why runs failed, in those folders that are theirs and unfinished."""
    content = {
        "error": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": environment.now(),
    }
    for run in runs:
        if (run.workdir / folder.CONFIG).exists() and not (run.workdir / folder.RESULT).exists():
            with contextlib.suppress(OSError):
                write_json(run.workdir / folder.FAILURE, content)


def _report_finished(run: Run, screen: Console) -> None:
    for name, columns, rows in tables(run.workdir):
        screen.print(rich_table(name, columns, rows))
    screen.print(f"{run.workdir} already holds this run, finished ({run.workdir / folder.RESULT}); --force redoes it")
