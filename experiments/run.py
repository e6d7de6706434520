"""Run one experiment: `python -m experiments.run --config configs/x.py[:variant] [--config.a.b=value ...]`.

Exit codes: 0 finished (also when it had finished before), 1 the experiment failed, 2 the command line or
the folder is wrong, 74 files could not be written, 75 stopped on request with a checkpoint: the same command
goes on.
"""

import argparse
import contextlib
import csv
import errno
import importlib
import os
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments.launch.configuration import Resolved, UsageError, resolve
from experiments.launch.signals import EXIT_PREEMPTED, Preempted, Stop
from experiments.store import environment, folder
from experiments.store.checkpoints import CheckpointError
from experiments.store.encoding import plain, write_json

EXIT_FAILED, EXIT_USAGE, EXIT_FILES = 1, 2, 74
_NO_ROOM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EFBIG,
}


class Settings(NamedTuple):
    """How to run, as opposed to what: nothing here changes a result."""

    force: bool = False
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = parse(argv)
        from experiments.launch import process  # imports JAX: after the cheap checks

        resolved = resolve(options.config, overrides)
        process.compilation_cache()
        workdir = Path(options.workdir) if options.workdir else default_workdir(resolved)
        settings = Settings(options.force, options.checkpoint_seconds, options.tensorboard)
        return execute(resolved, workdir, settings)
    except (UsageError, folder.FolderError, CheckpointError) as error:
        return _fail(str(error), EXIT_USAGE)
    except OSError as error:
        return files_failed(error)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into our options and the config overrides."""
    parser = argparse.ArgumentParser(prog="python -m experiments.run", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="config file; --config.a.b=value sets a field",
    )
    add("--workdir", default="", help="the run's folder (default runs/<config name>-<fingerprint>)")
    add("--force", action="store_true", help="redo a finished run, or replace another run in --workdir")
    add("--checkpoint-seconds", type=float, default=30.0, help="at least this long between checkpoints")
    add("--tensorboard", action="store_true", help="also write TensorBoard events (needs tensorboardX)")
    return parser.parse_known_args(argv)


def files_failed(error: OSError) -> int:
    """Say that files could not be written (disk full, read-only, not ours); other errors are raised again."""
    if error.errno not in _NO_ROOM:
        raise error
    where = error.filename or "while writing"
    return _fail(f"{error.strerror}: {where}; nothing finished is lost, the same command goes on", EXIT_FILES)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def default_workdir(resolved: Resolved) -> Path:
    """runs/<config name>-<fingerprint>, from the current directory."""
    return Path("runs") / f"{resolved.name}-{folder.fingerprint(resolved.config.to_dict())[:8]}"


def experiment_module(name: str) -> types.ModuleType:
    """The module `experiments.<name>`; UsageError when it is absent or has no `run`."""
    full = f"experiments.{name}"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise UsageError(f"experiment {name!r} needs the package {error.name!r}, which is not installed") from error
        raise UsageError(f"config.experiment is {name!r}, but there is no experiments/{name}.py") from error
    if not callable(getattr(module, "run", None)):
        raise UsageError(f"experiments/{name}.py has no run(config, record)")
    return module


def execute(
    resolved: Resolved,
    workdir: Path,
    settings: Settings,
    screen: Console | None = None,
) -> int:
    """Run, resume, or report a resolved config in `workdir`; returns the exit code."""
    from experiments.launch import process
    from experiments.record import console

    screen = screen or console()
    with process.precision(resolved.config.precision):
        module = experiment_module(resolved.config.experiment)
        if not settings.force and folder.state(workdir, resolved.config.to_dict()) is folder.State.FINISHED:
            _report_finished(workdir, screen)  # before anything is written, the lock too: it may be read-only
            return 0
        if settings.force:
            folder.refuse_foreign(workdir)
        lock = folder.Lock(workdir)
        try:
            held = prepare(resolved, workdir, settings)
            if held is folder.State.FINISHED:
                _report_finished(workdir, screen)
                return 0
            return _work(module, resolved, workdir, settings, held, screen)
        finally:
            lock.release()


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
) -> int:
    from experiments.record import Record

    resume = held is folder.State.UNFINISHED
    screen.print(f"{'resuming' if resume else 'running'} {resolved.spec} in {workdir}")
    with Stop() as stop, contextlib.ExitStack() as stack:
        record = Record(
            workdir,
            resume=resume,
            screen=screen,
            stop=stop,
            checkpoint_seconds=settings.checkpoint_seconds,
            events=settings.tensorboard,
        )
        stack.callback(record.close)
        try:
            result = module.run(resolved.config, record)
            finish(workdir, result)
        except Preempted:
            return EXIT_PREEMPTED
        except (UsageError, folder.FolderError, CheckpointError):
            raise
        except Exception as error:
            return _failed(error, workdir)
        record.close()
        for table in record.tables.values():
            screen.print(table)
        screen.print(f"finished in {record.seconds:.1f} s: {workdir / folder.RESULT}")
    return 0


def finish(workdir: Path, result: Any) -> None:
    """Check a run's result and make the run finished, in one atomic step."""
    if not isinstance(result, dict):
        raise TypeError(f"run(config, record) returned a {type(result).__name__}; it must return a dict")
    write_json(workdir / folder.RESULT, plain(result, "result"))


def _failed(error: Exception, workdir: Path) -> int:
    """Print and keep the reason; a full or read-only disk is named as such."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise error
    traceback.print_exception(error)
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


def _report_finished(workdir: Path, screen: Console) -> None:
    from experiments.record import rich_table

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


if __name__ == "__main__":
    sys.exit(main())
