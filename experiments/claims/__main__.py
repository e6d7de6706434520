"""Claims from runs to pages: `python -m experiments.claims` reads finished runs, writes docs/claims.md and README.md.

For each table of the page it looks for the finished run below `--root`, reads its numbers into docs/claims.json, and
writes the pages from that file. What has no run keeps its number, with its date. Exit code 1 when a run that was
started here failed, or when `--check` finds a page that differs.
"""

import argparse
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.claims import pages, reading
from experiments.claims.claim import Section
from experiments.claims.registry import HEADLINES, SECTIONS, claims
from experiments.run import default_workdir
from experiments.runner.command import EXIT_FAILED, called, command
from experiments.runner.config import UsageError, resolve
from experiments.runner.store import environment, folder
from experiments.runner.store.encoding import write_atomic

HERE = environment.ROOT
NUMBERS = "docs/claims.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog=called("claims"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=HERE / "runs", help="where finished runs are (default runs)")
    parser.add_argument("--quick", action="store_true", help="first make the quick runs that are missing")
    parser.add_argument("--only", default="", help="of the runs, only those whose config's name contains this")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the pages are as recorded")
    return command(lambda: _main(parser.parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    if not (HERE / NUMBERS).is_file():
        raise UsageError(f"there is no {HERE / NUMBERS}: claims are written in a checkout")
    if options.check:
        stale = [path.name for path, text in written().items() if path.read_text(encoding="utf-8") != text]
        for name in stale:
            print(f"{name} is not what docs/claims.json says: run python -m experiments.claims", file=sys.stderr)
        return EXIT_FAILED if stale else 0
    chosen = [section for section in SECTIONS if options.only in (section.config or section.reads)]
    tests = options.quick and any(section.quick and " pytest " in section.command for section in chosen)
    if tests and importlib.util.find_spec("pytest") is None:
        raise UsageError("one of the quick commands is a test: pip install -e '.[test]' (or --only CONFIG)")
    numbers, failed = reading.load(HERE / NUMBERS), []
    for section in chosen:
        found = measure(section, options.root, make=options.quick and section.quick)
        failed += [section.title] if found is None else []
        numbers |= found or {}
    reading.save(HERE / NUMBERS, numbers)
    for path, text in written().items():
        write_atomic(path, text.encode())
        print(path.relative_to(HERE))
    for title in failed:
        print(f"failed, and keeps its numbers: {title}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


def written() -> dict[Path, str]:
    """The pages, by their paths, as the recorded numbers say."""
    numbers = reading.load(HERE / NUMBERS)
    front = HERE / "README.md"
    rows = pages.readme(front.read_text(encoding="utf-8"), HEADLINES, claims(), numbers)
    return {HERE / "docs" / "claims.md": pages.page(SECTIONS, numbers, HEADLINES), front: rows}


def measure(section: Section, root: Path, *, make: bool) -> dict[str, reading.Measured] | None:
    """The numbers of a section from its finished run, made here with `make`; {} without one, None where it failed."""
    read = [claim for claim in section.claims if claim.path]
    if not section.config:
        make = make or (bool(section.reads) and (root / section.reads).is_dir())
        words = [
            str(root / section.reads) if word == f"runs/{section.reads}" else word
            for word in shlex.split(section.command)
        ]
        output = _done([sys.executable, *words[1:]], section) if make and read else ""
        when = {"date": environment.now()[:10], "commit": reading.commit(environment.commit())}
        return None if output is None else {c.name: reading.printed(c, output, **when) for c in read if output}
    workdir = workdir_of(section, root)
    if make and not (workdir / folder.RESULT).exists():
        run = [sys.executable, "-m", "experiments.run", "--config", section.config, *section.overrides]
        if _done([*run, "--workdir", str(workdir)], section) is None:
            return None
    if not (workdir / folder.RESULT).exists():
        return {}
    return {claim.name: reading.of_run(claim, workdir) for claim in read}


def _done(arguments: Sequence[str], section: Section) -> str | None:
    """What a command printed, here too; None where it failed."""
    print(section.shown(), flush=True)
    done = subprocess.run(arguments, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    return None if done.returncode else done.stdout


def workdir_of(section: Section, root: Path) -> Path:
    """Where the run of a section is by default."""
    path, colon, variant = section.config.partition(":")
    return root / default_workdir(resolve(f"{HERE / path}{colon}{variant}", section.overrides)).name


if __name__ == "__main__":
    sys.exit(main())
