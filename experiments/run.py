"""Run one experiment: `python -m experiments.run --config configs/x.py[:variant] [--config.a.b=value ...]`.

Exit codes: 0 finished (also when it had finished before), 1 the experiment failed, 2 the command line or
the folder is wrong, 74 files could not be written, 75 stopped on request with a checkpoint: the same command
goes on.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.runner import distributed, process
from experiments.runner.config import Resolved, UsageError, resolve
from experiments.runner.execute import Settings, execute, say_error
from experiments.runner.store import folder
from experiments.runner.store.checkpoints import CheckpointError


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    options, overrides = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        resolved = resolve(options.config, overrides)
        process.compilation_cache()
        here = distributed.initialize(options)
        workdir = Path(options.workdir) if options.workdir else default_workdir(resolved)
        settings = Settings(options.force, options.checkpoint_seconds, options.tensorboard)
        return execute(resolved, workdir, settings, here=here)
    except (UsageError, folder.FolderError, CheckpointError, OSError) as error:
        return say_error(error)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into our options and the config overrides."""
    parser = argparse.ArgumentParser(prog="python -m experiments.run", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:VARIANT]", help="config file; --config.a.b=value sets a field")
    add("--workdir", default="", help="the run's folder (default runs/<config name>-<fingerprint>)")
    add("--force", action="store_true", help="redo a finished run, or replace another run in --workdir")
    add("--checkpoint-seconds", type=float, default=30.0, help="at least this long between checkpoints")
    add("--tensorboard", action="store_true", help="also write TensorBoard events (needs tensorboardX)")
    distributed.add_flags(parser)
    return parser.parse_known_args(argv)


def default_workdir(resolved: Resolved) -> Path:
    """runs/<config name>-<fingerprint>, from the current directory."""
    return Path("runs") / f"{resolved.name}-{folder.fingerprint(resolved.config.to_dict())[:8]}"


if __name__ == "__main__":
    sys.exit(main())
