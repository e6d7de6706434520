"""The table of what our programs become on accelerators: `python -m tests.accelerators [h100 v5e] [--dtype float32]`.

Fetches the compilers once (0.7 GB each, into build/accelerators). Exit code 1 when a case does not compile or breaks
what was promised of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.accelerators.targets import TARGETS, environment, fetch

HEAD = ("case", "kernels", "loops: trips x kernels", "launches", "Mcycles", "compile s")


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.accelerators", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--case", default="", help="only the cases whose name has this in it")
    parser.add_argument("--cpu-blocks", action="store_true", help="with the blocks of rows of a CPU, to compare with")
    options = parser.parse_args(argv)
    broken = []
    for name in options.targets:
        fetch(name)
        print(f"\n{name}, {options.dtype}\n" + " | ".join(HEAD), flush=True)
        for row in compiled(name, options.dtype, options.case, cpu_blocks=options.cpu_blocks):
            print(line(row), flush=True)
            broken += [f"{name}: {row['name']}: {why}" for why in faults(row, name, options.dtype)]
    print("\n".join(["", *broken]) if broken else "\nall as promised")
    return 1 if broken else 0


def compiled(name: str, dtype: str, part: str = "", *, cpu_blocks: bool = False) -> Iterator[dict[str, Any]]:
    """What became of each case, one after another, from a process that has the compiler."""
    command = [sys.executable, "-m", "tests.accelerators.compile", name, dtype, part, *["cpu"] * cpu_blocks]
    with (
        tempfile.TemporaryDirectory() as dump,
        subprocess.Popen(command, env=environment(name, dump), stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("{"):
                yield json.loads(text)
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the compiler of {name} ended with exit code {process.returncode}")


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"{row['name']} | {row['error']}"
    loops = ", ".join(f"{'?' if trips is None else trips} x {kernels}" for trips, kernels in row["loops"]) or "none"
    cycles = "" if row["cycles"] is None else f"{row['cycles'] / 1e6:.3f}"
    launches = "?" if row["launches"] is None else row["launches"]
    return " | ".join(map(str, (row["name"], row["kernels"], loops, launches, cycles, row["seconds"])))


def faults(row: Mapping[str, Any], target: str, dtype: str) -> list[str]:
    """What a case does that was promised not to happen."""
    if "error" in row:
        return [f"does not compile: {row['error']}"]
    found = []
    if row["callbacks"]:
        found.append("calls the host")
    if row["float64"] and dtype == "float32":
        found.append("has float64 in a float32 program")
    if target == "h100" and row["most"] is not None and row["kernels"] > row["most"]:
        found.append(f"launches {row['kernels']} kernels; the budget is {row['most']}")
    longest = max((trips or 0 for trips, _ in row["loops"]), default=0)
    if row["spilled"]:
        found.append(f"spills {row['spilled']} bytes of registers")
    if target == "v5e" and row["most_cycles"] is not None and (row["cycles"] or 0) > row["most_cycles"]:
        found.append(f"takes {row['cycles'] / 1e6:.3f} Mcycles; the budget is {row['most_cycles'] / 1e6:.3f}")
    if row["trips"] is not None and longest > row["trips"]:
        found.append(f"a loop has {longest} trips; the budget is {row['trips']}")
    return found


if __name__ == "__main__":
    sys.exit(main())
