"""Compile every case for one target: `python -m tests.accelerators.compile h100 float32 [part of a name]`, JSON lines.

Run by `python -m tests.accelerators` in a process whose path has the compiler (`tests.accelerators.targets`).
"""

import json
import sys
import time

import jax
from jax.sharding import SingleDeviceSharding

from tests.accelerators.cases import Case, cases
from tests.accelerators.programs import read
from tests.accelerators.targets import TARGETS, topology


def main(name: str, dtype: str, part: str = "") -> None:
    """One line a case on standard output."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    # Objectives ask JAX what platform they are on; this process stands for the target's.
    jax.default_backend = lambda: TARGETS[name].platform
    device = topology(name).devices[0]
    for case in cases(dtype):
        if part in case.name:
            print(json.dumps(one(case, device)), flush=True)


def one(case: Case, device) -> dict:
    """What became of a case."""
    sharding = SingleDeviceSharding(device)

    def place(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    began = time.perf_counter()
    try:
        lowered = jax.jit(case.function).lower(*jax.tree.map(place, case.arguments))
        compiled = lowered.compile()
    except Exception as error:
        return {"name": case.name, "error": f"{type(error).__name__}: {error}"[:400]}
    program = read(compiled.as_text())
    seconds = time.perf_counter() - began
    row = program._asdict() | {"launches": program.launches, "loops": [list(loop) for loop in program.loops]}
    return {"name": case.name, "most": case.most, "trips": case.trips, "seconds": round(seconds, 2), **row}


if __name__ == "__main__":
    main(*sys.argv[1:])
