"""The papers' statements as a page: `python -m experiments.papers` reads finished runs and writes docs/papers.md.

For each run or sweep that rows need it looks for its finished folder below `--root`, keeps its numbers in
docs/papers.json, and writes the page from that file and docs/claims.json. What has no run keeps its numbers, with their
date. Exit code 1 when `--check` finds a page that differs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.claims import reading
from experiments.claims.reading import Measured
from experiments.papers.page import page
from experiments.papers.registry import CHAPTERS
from experiments.papers.row import Run
from experiments.papers.runs import RUNS
from experiments.run import default_workdir
from experiments.runner import results
from experiments.runner.command import EXIT_FAILED, command
from experiments.runner.config import UsageError, resolve
from experiments.runner.store import environment, folder
from experiments.runner.store.encoding import read_json, write_atomic, write_json
from experiments.runner.tasks import default_root

HERE = environment.ROOT
PAGE, NUMBERS, CLAIMS = (HERE / "docs" / name for name in ("papers.md", "papers.json", "claims.json"))


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.papers", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=HERE / "runs", help="where finished runs are (default runs)")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the page is as recorded")
    return command(lambda: _main(parser.parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    if not NUMBERS.is_file():
        raise UsageError(f"there is no {NUMBERS}: the page is written in a checkout")
    if options.check:
        if PAGE.read_text(encoding="utf-8") == written():
            return 0
        print("docs/papers.md is not what is recorded: run python -m experiments.papers", file=sys.stderr)
        return EXIT_FAILED
    recorded = read_json(NUMBERS)
    for run in RUNS:
        workdir = workdir_of(run, options.root)
        if finished(run, workdir):
            recorded[run.key] = record(run, workdir)
            print(f"read {workdir.name}")
    write_json(NUMBERS, recorded)
    write_atomic(PAGE, written().encode())
    return 0


def written() -> str:
    """The page as the recorded numbers say."""
    recorded = read_json(NUMBERS)
    return page(CHAPTERS, RUNS, recorded, numbers(recorded))


def numbers(recorded: Mapping[str, Any]) -> dict[str, Measured]:
    """Every number that a row may show, by its name: the claims', and what runs gave."""
    found = reading.load(CLAIMS)
    for entry in recorded.values():
        when = {"date": entry["date"], "commit": entry["commit"]}
        found |= {name: Measured(value, **when) for name, value in entry["numbers"].items()}
    return found


def finished(run: Run, workdir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folders with a result, each with its overrides: that of the run, or those of the sweep's finished tasks."""
    tasks = results.listed(workdir) if run.sweep and results.is_sweep(workdir) else [(workdir, None)]
    return [(path, overrides or {}) for path, overrides in tasks if (path / folder.RESULT).exists()]


def record(run: Run, workdir: Path) -> dict[str, Any]:
    """What a finished run or sweep gives: its numbers to six digits, and when which commit made it (its last task)."""
    found = finished(run, workdir)
    session = max((read_json(path / folder.ENVIRONMENT)[-1] for path, _ in found), key=lambda s: str(s["started"]))
    loaded = [(overrides, folder.result(path)) for path, overrides in found]
    values = run.read(loaded if run.sweep else loaded[0][1])
    given = {name: float(f"{value:.6g}") for name, value in values.items()}
    return {"date": str(session["started"])[:10], "commit": reading.commit(session), "numbers": given}


def workdir_of(run: Run, root: Path) -> Path:
    """Where the run is by default."""
    path, colon, variant = run.config.partition(":")
    if run.sweep:
        return root / default_root(run.config).name
    return root / default_workdir(resolve(f"{HERE / path}{colon}{variant}", run.overrides)).name


if __name__ == "__main__":
    sys.exit(main())
