"""Attack the runner and the checks, and print what was tried, what survived and what was lost.

    python -m tests.attack --times 20

An attempt survives when the same command goes on to the numbers of an undisturbed run, or refuses in one line and
touches nothing that is not its own. Anything else is lost, a traceback included; exit code 1 when anything is.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["ATTNREG_COMPILATION_CACHE"] = "off"
# On import submitit configures logging, which closes the handlers there are.
os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")

import jax

from experiments.runner.screen import clean, console
from experiments.runner.sheet import sheet
from tests.attack import damage, folders, fuzz, kills
from tests.attack.bench import Attempt, Bench

PARTS = {"folders": folders, "damage": damage, "fuzz": fuzz, "kills": kills}


def main(argv: Sequence[str] | None = None) -> int:
    """Attack as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--times", type=int, default=20, help="how often what is drawn at random is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(PARTS), help="may be repeated (default: all)")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        chosen = [PARTS[name] for name in options.only or PARTS]
        return report(
            Path(temporary), (a for part in chosen for a in part.attempts(bench, options.times, options.seed))
        )


def report(root: Path, attempts: Iterable[Attempt]) -> int:
    """Make the attempts, each in a folder of its own below `root`, and print the table; 1 when anything is lost."""
    tried: Counter[str] = Counter()
    lost: list[tuple[str, str, str]] = []
    for number, attempt in enumerate(attempts):
        place = root / f"attempt-{number}"
        place.mkdir()
        with contextlib.chdir(place):
            found = attempt.run(place)
        tried[attempt.kind] += 1
        if found is not None:
            lost.append((attempt.kind, clean(repr(attempt.label)), clean(found)))
    gone = Counter(kind for kind, *_ in lost)
    rows = [(kind, count, count - gone[kind], gone[kind]) for kind, count in tried.items()]
    rows.append(("all", tried.total(), tried.total() - len(lost), len(lost)))
    screen = console()
    if lost:
        screen.print(sheet("lost", ("attack", "attempt", "what"), lost))
    screen.print(sheet("attack", ("attack", "tried", "survived", "lost"), rows))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
