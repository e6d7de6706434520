"""Run one experiment: `python -m experiments.run --config configs/x.py[:variant] [--config.a.b=value ...]`.

Exit codes: 0 finished (also when it had finished before), 1 the experiment failed, 2 the command line, the config
or the folder is wrong, 74 files could not be written, 75 stopped on request with a checkpoint: the same command
goes on.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.runner import command, distributed, sinks
from experiments.runner.config import Resolved, Run, resolve
from experiments.runner.execute import Settings, execute
from experiments.runner.screen import clean
from experiments.runner.session import CHECKPOINT_SECONDS
from experiments.runner.store import folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    return command.command(lambda: _main(argv), computes=True)


def _main(argv: Sequence[str] | None) -> int:
    options, overrides = parse(argv)
    resolved = resolve(options.config, overrides)
    workdir = folder.workdir(options.workdir) if options.workdir else default_workdir(resolved)
    here = distributed.initialize(options)
    figures = command.figure_formats(options.figures)
    settings = Settings(options.force, options.checkpoint_seconds, sinks.chosen(options), figures)
    code = execute([Run(resolved, workdir)], settings, here=here)
    if code == 0 and here.primary:
        print(clean(f"as a page: {command.called('report')} {shlex.quote(str(workdir))}"))
    return code


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into our options and the config overrides."""
    parser = command.parser("run", __doc__)
    add = parser.add_argument
    add("--workdir", default="", help="the run's folder (default runs/<config name>-<fingerprint>)")
    add("--force", action="store_true", help="redo a finished run, or replace another run in --workdir")
    add("--checkpoint-seconds", type=float, default=CHECKPOINT_SECONDS, help="at least this long between checkpoints")
    add("--figures", default="", metavar="FORMATS", help="also keep figures as svg, pdf or both (svg,pdf)")
    sinks.add_flags(parser)
    distributed.add_flags(parser)
    return command.parse(parser, argv)


def default_workdir(resolved: Resolved) -> Path:
    """runs/<config name>-<fingerprint>, from the current directory."""
    return Path("runs") / f"{resolved.name}-{folder.fingerprint(resolved.config.to_dict())[:8]}"


if __name__ == "__main__":
    sys.exit(main())
