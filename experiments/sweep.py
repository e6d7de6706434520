"""Run a config's sweep: `python -m experiments.sweep --config configs/x.py` (docs/guides/sweeps.md).

Exit codes: 0 all tasks finished (or `--list`), 1 some failed, 2 the command line or a folder is wrong,
75 stopped on request: the same command goes on.
"""

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.runner import command, local, process, queue, sinks
from experiments.runner.config import UsageError
from experiments.runner.execute import Settings, execute
from experiments.runner.experiment import batched, experiment_module
from experiments.runner.screen import console
from experiments.runner.session import CHECKPOINT_SECONDS
from experiments.runner.sheet import sheet
from experiments.runner.store import folder
from experiments.runner.tasks import Task, batches, default_root, status, tasks, write_list
from experiments.runner.worklist import Worklist


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    return command.command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options, overrides = parse(argv)
    root = folder.workdir(options.workdir) if options.workdir else default_root(options.config)
    listed = tasks(options.config, overrides, root)
    if options.list:
        show(listed, root)
        return 0
    figures = command.figure_formats(options.figures)
    settings = Settings(checkpoint_seconds=options.checkpoint_seconds, sinks=sinks.chosen(options), figures=figures)
    if options.index is not None:
        return _one(listed, options.index, settings)
    units = make_units(listed, options.batch)
    write_list(root, options.config, overrides, listed)
    if options.retry:
        forget_failures(listed)
    work = Worklist(units, settings)
    if options.submit:
        from experiments.runner import slurm

        return slurm.submit(root, work, options)
    started, cpu = time.monotonic(), _workers_cpu()
    jobs = 1 if options.jobs is None else options.jobs
    code = local.drive(root, work, jobs=jobs, max_deaths=options.max_deaths)
    # What --batch saves shows here: the same tasks, with and without it.
    console().print(f"{time.monotonic() - started:.0f} s, {_workers_cpu() - cpu:.0f} s of CPU in {len(units)} programs")
    return finish(listed, code)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into our options and the config overrides of every task."""
    parser = command.parser("sweep", __doc__)
    add = parser.add_argument
    add("--workdir", default="", help="the sweep's folder (default runs/<config name>-sweep)")
    add("--jobs", type=int, default=None, help="local processes (default 1), or Slurm jobs at once (default 256)")
    add("--index", type=int, default=None, help="run this one task, here")
    add("--list", action="store_true", help="show the tasks and their state; writes nothing")
    add("--retry", action="store_true", help="also run the tasks that failed")
    add("--batch", type=int, default=1, help="run up to this many tasks as one vmapped program")
    add("--max-deaths", type=int, default=5, help="give a task up after this many workers died on it")
    add("--checkpoint-seconds", type=float, default=CHECKPOINT_SECONDS, help="at least this long between checkpoints")
    add("--figures", default="", metavar="FORMATS", help="also keep figures as svg, pdf or both (svg,pdf)")
    sinks.add_flags(parser)
    add("--submit", choices=["slurm"], default=None, help="submit to Slurm instead of running here")
    add("--pack", type=int, default=1, help="with --submit: this many tasks (or batches) one after another in a job")
    add("--slurm", action="append", default=[], metavar="NAME=VALUE", help="a Slurm option (docs/guides/slurm.md)")
    return command.parse(parser, argv)


def _one(listed: Sequence[Task], index: int, settings: Settings) -> int:
    """Run one task alone, here."""
    if not 0 <= index < len(listed):
        raise UsageError(f"--index {index}: the sweep has tasks 0 to {len(listed) - 1}")
    process.compilation_cache()
    return execute([listed[index].run], settings)


def _workers_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_units(listed: Sequence[Task], size: int) -> list[list[Task]]:
    """One task a unit, or with `--batch` the groups that the experiment can run as one program."""
    if size < 1:
        raise UsageError(f"--batch {size}: at least one task a program")
    if size == 1:
        return [[task] for task in listed]
    name = listed[0].resolved.config.experiment
    module = experiment_module(name)
    if not batched(module):
        raise UsageError(f"experiments/{name.replace('.', '/')}.py has no run_batch and BATCHED: leave --batch out")
    return batches(listed, module.BATCHED, size)


def forget_failures(listed: Sequence[Task]) -> None:
    """`--retry`: what failed counts as unfinished again."""
    for task in listed:
        if status(task).state == "failed":
            (task.workdir / folder.FAILURE).unlink(missing_ok=True)


def finish(listed: Sequence[Task], code: int) -> int:
    """Report the end of a sweep: counts, and what failed with its error."""
    states = {task.number: status(task) for task in listed}
    counts = Counter(s.state for s in states.values())
    failed = [(i, s.detail) for i, s in states.items() if s.state == "failed"]
    screen = console()
    if failed:
        screen.print(sheet("failed", ("task", "error"), failed))
    screen.print(", ".join(f"{n} {name}" for name, n in sorted(counts.items())) + f" of {len(listed)} tasks")
    return code or int(counts["finished"] < len(listed))


def show(listed: Sequence[Task], root: Path) -> None:
    """Print every task with its overrides and state; of a submitted one, what the scheduler says."""
    rows, waiting = [], {}
    try:
        waiting = queue.queued(root)
    except UsageError as error:
        console().print(f"what is queued is not known: {error}")
    for task in listed:
        found = queue.status(task, waiting)
        overrides = " ".join(f"{k}={v}" for k, v in task.overrides.items())
        rows.append((task.number, overrides, task.workdir.name, found.state, found.detail))
    console().print(sheet("sweep", ("task", "overrides", "folder", "state", "detail"), rows))


if __name__ == "__main__":
    sys.exit(main())
