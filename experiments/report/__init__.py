"""One self-contained page of runs: `python -m experiments.report RUN_OR_SWEEP…`.

Of one folder it is report.html in it; of several, side by side, report.html in the folder that holds them all (or
`--out FILE`). Everything shown is escaped: names and values come from configs and results, which may be someone else's.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.report import elements, run, several, sweep
from experiments.runner import past
from experiments.runner.command import called, command, unreadable_is_usage
from experiments.runner.results import is_sweep
from experiments.runner.screen import clean
from experiments.runner.store.encoding import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the folders on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog=called("report"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("roots", type=Path, nargs="+", metavar="RUN_OR_SWEEP", help="a run's or a sweep's folder")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="the page (default report.html)")
    options = parser.parse_args(argv)
    return command(lambda: _report(options.roots, options.out))


def _report(roots: Sequence[Path], out: Path | None) -> int:
    with unreadable_is_usage():
        common = roots[0] if len(roots) == 1 else Path(os.path.commonpath([root.absolute() for root in roots]))
        path = out or common / "report.html"
        title, body = _page(roots, path.absolute().parent)
    write_atomic(path, elements.page(title, body).encode())
    print(clean(str(path)))
    return 0


def _page(roots: Sequence[Path], base: Path) -> tuple[str, str]:
    """Title and body of the page, whose links start at `base`."""
    if len(roots) == 1 and is_sweep(roots[0]):
        return sweep.page(roots[0], base)
    if len(roots) == 1:
        return run.page(past.read(roots[0]), base)
    if sweeps := [root for root in roots if is_sweep(root)]:
        parts = [sweep.page(root, base) if root in sweeps else run.page(past.read(root), base) for root in roots]
        return "Runs and sweeps", "".join(body for _, body in parts)
    return several.page([past.read(root) for root in roots], base)
