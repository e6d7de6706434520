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


def cycles(schedule: str) -> float | None:
    """Cycles of one kernel, from its schedule."""
    levels = [0] * 9  # bundles in that many loops
    bounds: dict[int, int] = {}
    for line in schedule.splitlines():
        bundle = re.match(r"\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*:\s*(>*)\s*\{", line)
        if bundle is None:
            continue
        depth = len(bundle[1])
        levels[depth] += 1
        for bound in re.findall(r"scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test", line):
            bounds[depth] = int(bound)
    total, times = float(levels[0]), 1
    for depth, count in enumerate(levels[1:], 1):
        if count and depth not in bounds:
            return None
        times *= bounds.get(depth, 0) - (AHEAD if depth == 1 else 0)
        total += times * count
    return total
