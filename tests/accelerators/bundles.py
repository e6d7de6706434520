"""Cycles of a TPU's hand-written kernels. The compiler prints an estimate for what it fuses itself, none for those.

It can be asked to leave the finished schedule of every kernel in a folder: one line a bundle, and a bundle is a cycle.
A line says how many loops it is in by as many `>`, and a loop says by its last test how often it runs. Waits for memory
are not counted.
"""

import re
from collections.abc import Iterable
from pathlib import Path

# Given to libtpu before it is loaded; the folder must exist.
OPTIONS = "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
# The loop over the grid runs two times more often than the grid is long: it fetches ahead and writes behind.
AHEAD = 2


def kernels(text: str) -> list[str]:
    """The names of the hand-written kernels in a compiled program."""
    return re.findall(r"%([\w.\-]+) = [^\n]*custom_call_target=\"tpu_custom_call\"", text)


def scheduled(folder: Path, names: Iterable[str]) -> float | None:
    """Cycles of all these kernels together; None where a loop's trips are not known. The folder is emptied."""
    files = {name: next(folder.glob(f"*-{name}-*[0-9]-final_bundles.txt"), None) for name in names}
    found = [None if path is None else cycles(path.read_text(encoding="utf-8")) for path in files.values()]
    for path in folder.iterdir():
        path.unlink()
    return None if None in found else sum(x for x in found if x is not None)


class _Loop:
    """A loop of a schedule: its bundles without those of inner loops, and its trips, None where a program decides."""

    def __init__(self, parent: "_Loop | None"):
        self.parent, self.bundles = parent, 0
        # One that has no test was found to run once.
        self.trips: int | None = 1

    @property
    def times(self) -> int | None:
        """How often it runs, with the loops around it."""
        around = 1 if self.parent is None else self.parent.times
        return None if around is None or self.trips is None else around * self.trips


def cycles(schedule: str) -> float | None:
    """Cycles of one kernel, from its schedule."""
    within = [_Loop(None)]  # the loop at each depth, outermost first
    loops = list(within)
    for line in schedule.splitlines():
        bundle = re.match(r"\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*\{", line)
        if bundle is None:
            continue
        depth = len(bundle[2])
        if bundle[1] == "LB":
            within[depth:] = [_Loop(within[depth - 1])]
            loops.append(within[depth])
        loop = within[depth]
        loop.bundles += 1
        for bound in re.findall(r"scmp\.\w+\.\w+\.\w+ %\w+, (%?\w+) /\* loop exit test", line):
            loop.trips = int(bound) - (AHEAD if depth == 1 else 0) if bound.isdigit() else None
    found = [(loop.times, loop.bundles) for loop in loops]
    return None if any(times is None for times, _ in found) else float(sum(t * b for t, b in found if t is not None))
