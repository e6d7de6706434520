"""What every command does first and last: its options and `--help`, the process's settings, errors in one line."""

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from experiments.runner import process
from experiments.runner.config import UsageError, declared_variants, field_paths, load_module, resolve, split_spec
from experiments.runner.screen import clean
from experiments.runner.store.checkpoints import CheckpointError
from experiments.runner.store.folder import FolderError

EXIT_FAILED, EXIT_USAGE, EXIT_FILES = 1, 2, 74
# What the disk, not the experiment, is to blame for: full, over quota, read-only, not ours, broken.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EFBIG}
# What no file can be called.
NAMES = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
# Beside it are the configs.
HERE = Path(__file__).resolve().parents[2]
USAGE = (UsageError, FolderError, CheckpointError)


def called(name: str, config: str = "") -> str:
    """How a person calls a command of the laboratory here, in a checkout or in an installed package."""
    installed = HERE.name == "_lab"  # attnreg.lab
    program = f"attnreg {name}" if installed else f"python -m experiments.{name}"
    shown = config if installed else f"configs/{config}.py"
    return f"{program} --config {shown}" if config else program


def command(body: Callable[[], int], *, computes: bool = False) -> int:
    """Run the body of a command and return its exit code; what the user or the disk must put right is one line."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal without our letters must not end a run
    try:
        if computes:
            process.compilation_cache()
        return body()
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (*USAGE, OSError) as error:
        return say_error(error)


@contextlib.contextmanager
def unreadable_is_usage() -> Iterator[None]:
    """What cannot be read where the user pointed is the user's to put right: one line, exit code 2."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        if error.errno not in NAMES:
            raise
        raise UsageError(f"{error.strerror}: {str(error.filename)[:80]}…") from error


def say_error(error: Exception) -> int:
    """One line on stderr for what the user or the disk must put right, and the exit code; others are raised again."""
    if isinstance(error, USAGE):
        message, code = str(error), EXIT_USAGE
    elif isinstance(error, OSError) and error.errno in DISK:
        where = error.filename or "while writing"
        message = f"{error.strerror}: {where}; nothing finished is lost, the same command goes on"
        code = EXIT_FILES
    else:
        raise error
    sys.stderr.write(f"error: {clean(' '.join(message.split()))}\n")  # in one piece, whatever other threads say
    sys.stderr.flush()
    return code


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a command that takes a config; `parse` reads with it."""
    made = argparse.ArgumentParser(
        prog=called(name),
        description=description,
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-h", "--help", action="store_true", help="this; with --config FILE also its variants and fields")
    made.add_argument(
        "--config", default="", metavar="FILE[:VARIANT]", help="config file; --config.a.b=value sets a field"
    )
    return made


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line (by default the process's) into our options and the config overrides."""
    options, overrides = parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    if options.help:
        _help(parser, options.config, overrides)
    if not options.config:
        raise UsageError(
            "--config FILE is needed: --help says more, --config FILE --help lists its variants and fields"
        )
    if "checkpoint_seconds" in options and not options.checkpoint_seconds >= 0:
        raise UsageError(f"--checkpoint-seconds={options.checkpoint_seconds}: it must be at least 0")
    return options, overrides


def figure_formats(text: str) -> tuple[str, ...]:
    """`--figures svg,pdf` as a tuple; UsageError for another format."""
    found = tuple(dict.fromkeys(name for name in text.split(",") if name not in ("", "png")))
    if wrong := set(found) - {"svg", "pdf"}:
        raise UsageError(f"--figures has {wrong.pop()!r}; there are svg and pdf (png is always kept)")
    return found


def _help(parser: argparse.ArgumentParser, spec: str, overrides: Sequence[str]) -> NoReturn:
    print(parser.format_help())
    print(describe(spec, overrides) if spec else "--config FILE --help lists the variants and fields of that config.")
    raise SystemExit(0)


def describe(spec: str, overrides: Sequence[str] = ()) -> str:
    """The variants of a config with what they set, and its fields with their values."""
    path, variant = split_spec(spec)
    resolved = resolve(spec, overrides)
    variants = declared_variants(load_module(path), path)
    lines = [f"variants of {path} (--config {path}:VARIANT)", "  full"]
    lines += [f"  {name}: " + ", ".join(f"{k}={v!r}" for k, v in sets.items()) for name, sets in variants.items()]
    lines += ["", f"fields of :{variant} (--config.FIELD=VALUE)"]
    for name in field_paths(resolved.config):
        value = _field(resolved.config, name)
        if not hasattr(value, "items"):
            lines.append(f"  {name} = {value!r}")
    return clean("\n".join(lines))


def _field(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config
