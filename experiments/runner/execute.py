"""Run a resolved config in its folder: claim it, run or resume or report, and leave result or failure behind."""

import contextlib
import csv
import errno
import importlib
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments.runner import distributed, process
from experiments.runner.config import Resolved, UsageError
from experiments.runner.distributed import Place
from experiments.runner.record import Record, console, rich_table
from experiments.runner.signals import EXIT_PREEMPTED, Preempted, Stop
from experiments.runner.store import environment, folder
from experiments.runner.store.checkpoints import CheckpointError
from experiments.runner.store.encoding import plain, write_json

EXIT_FAILED, EXIT_USAGE, EXIT_FILES = 1, 2, 74
# What the disk, not the experiment, is to blame for: full, over quota, read-only, not ours, broken.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EFBIG}
ALONE = Place(0, 1)
_STATES = list(folder.State)


class Settings(NamedTuple):
    """How to run, as opposed to what: nothing here changes a result."""

    force: bool = False
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False


def execute(
    resolved: Resolved, workdir: Path, settings: Settings, *, screen: Console | None = None, here: Place = ALONE
) -> int:
    """Run, resume, or report a resolved config in `workdir`; the exit code. On many processes: on all of them."""
    screen = screen or console()
    with process.precision(resolved.config.precision):
        module = experiment_module(resolved.config.experiment)
        with _claimed(resolved, workdir, settings, here) as held:
            if held is None:
                return EXIT_USAGE  # process 0 says why
            if held is not folder.State.FINISHED:
                return _work(module, resolved, workdir, settings, held, screen, here)
        if here.primary:
            _report_finished(workdir, screen)
        return 0


def experiment_module(name: str) -> types.ModuleType:
    """The module `experiments.<name>`; UsageError when it is absent or has no `run`."""
    full = f"experiments.{name}"
    path = f"{full.replace('.', '/')}.py"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not f"{full}.".startswith(f"{error.name}."):
            raise UsageError(f"experiment {name!r} needs the package {error.name!r}, which is not installed") from error
        raise UsageError(f"config.experiment is {name!r}, but there is no {path}") from error
    if not callable(getattr(module, "run", None)):
        raise UsageError(f"{path} has no run(config, record)")
    return module


@contextlib.contextmanager
def _claimed(resolved: Resolved, workdir: Path, settings: Settings, here: Place) -> Iterator[folder.State | None]:
    """What the folder held, with its lock taken by process 0; all processes get the same answer, None for an error."""
    with contextlib.ExitStack() as stack:
        held, error = None, None
        if here.primary:
            try:
                held = _claim(resolved, workdir, settings, stack)
            except (folder.FolderError, OSError) as caught:
                error = caught
        code = distributed.gather(-1 if held is None else _STATES.index(held))[0]
        if error is not None:
            raise error
        yield None if code < 0 else _STATES[code]


def _claim(resolved: Resolved, workdir: Path, settings: Settings, stack: contextlib.ExitStack) -> folder.State:
    # Refuse, or report, before anything is written, the lock too: a finished folder may be read-only.
    if settings.force:
        folder.refuse_foreign(workdir)
    elif folder.state(workdir, resolved.config.to_dict()) is folder.State.FINISHED:
        return folder.State.FINISHED
    stack.callback(folder.Lock(workdir).release)
    return prepare(resolved, workdir, settings)


def prepare(resolved: Resolved, workdir: Path, settings: Settings) -> folder.State:
    """Make `workdir`, whose lock is held, this run's; what it held before."""
    config = resolved.config.to_dict()
    if settings.force:
        folder.clear(workdir)
    held = folder.State.EMPTY if settings.force else folder.state(workdir, config)
    if held is folder.State.EMPTY:
        write_json(workdir / folder.CONFIG, config)
    if held is not folder.State.FINISHED:
        environment.append(workdir / folder.ENVIRONMENT, environment.describe(resolved.config.precision))
        (workdir / folder.FAILURE).unlink(missing_ok=True)
    return held


def _work(
    module: types.ModuleType,
    resolved: Resolved,
    workdir: Path,
    settings: Settings,
    held: folder.State,
    screen: Console,
    here: Place,
) -> int:
    resume = held is folder.State.UNFINISHED
    with Stop() as stop, contextlib.ExitStack() as stack:
        record = Record(
            workdir,
            resume=resume,
            primary=here.primary,
            screen=screen,
            stop=stop,
            checkpoint_seconds=settings.checkpoint_seconds,
            events=settings.tensorboard,
            agree=distributed.agree,
        )
        stack.callback(record.close)
        record.say(f"{'resuming' if resume else 'running'} {resolved.spec} in {workdir}")
        try:
            result = module.run(resolved.config, record)
            if here.primary:
                finish(workdir, result)
            distributed.gather(0)  # nobody leaves before the result is on disk
        except Preempted:
            return EXIT_PREEMPTED
        except (UsageError, folder.FolderError, CheckpointError):
            raise
        except Exception as error:
            return _failed(error, workdir, here)
        record.close()
        for table in record.tables.values():
            screen.print(table)
        record.say(f"finished in {record.seconds:.1f} s: {workdir / folder.RESULT}")
    return 0


def finish(workdir: Path, result: Any) -> None:
    """Check a run's result and make the run finished, in one atomic step."""
    if not isinstance(result, dict):
        raise TypeError(f"run(config, record) returned a {type(result).__name__}; it must return a dict")
    write_json(workdir / folder.RESULT, plain(result, "result"))


def _failed(error: Exception, workdir: Path, here: Place) -> int:
    """Print and keep the reason; a full or read-only disk is named as such by the caller."""
    if isinstance(error, OSError) and error.errno in _DISK:
        raise error
    traceback.print_exception(error)
    if here.primary:
        with contextlib.suppress(OSError):
            write_json(workdir / folder.FAILURE, failure(error))
    return EXIT_FAILED


def failure(error: Exception) -> dict[str, str]:
    """The content of failure.json."""
    return {
        "error": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": environment.now(),
    }


def say_error(error: Exception) -> int:
    """One line on stderr for what the user or the disk must put right, and the exit code; others are raised again."""
    if isinstance(error, UsageError | folder.FolderError | CheckpointError):
        message, code = str(error), EXIT_USAGE
    elif isinstance(error, OSError) and error.errno in _DISK:
        where = error.filename or "while writing"
        message = f"{error.strerror}: {where}; nothing finished is lost, the same command goes on"
        code = EXIT_FILES
    else:
        raise error
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def _report_finished(workdir: Path, screen: Console) -> None:
    for path in sorted((workdir / folder.TABLES).glob("*.csv")):
        with open(path, newline="") as stream:
            columns, *rows = list(csv.reader(stream))
        screen.print(rich_table(path.stem, columns, [[_number(cell) for cell in row] for row in rows]))
    screen.print(f"{workdir} already holds this run, finished ({workdir / folder.RESULT}); --force redoes it")


def _number(text: str) -> Any:
    try:
        return float(text) if not text.lstrip("-").isdigit() else int(text)
    except ValueError:
        return text
