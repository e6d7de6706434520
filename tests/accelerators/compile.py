"""Compile every case for one target: `python -m tests.accelerators.compile h100 float32 [part of a name [cpu]]`.

Prints JSON lines; `cpu` takes a CPU's blocks of rows.

Run by `python -m tests.accelerators` in a process whose path has the compiler (`tests.accelerators.targets`).
"""

import json
import os
import sys
import time
from pathlib import Path

import jax
from jax.sharding import SingleDeviceSharding

from attnreg.lift.streaming import RULES
from tests.accelerators import bundles
from tests.accelerators.cases import Case, cases
from tests.accelerators.programs import read
from tests.accelerators.spills import spilled
from tests.accelerators.targets import DUMP, TARGETS, folder, topology


def main(name: str, dtype: str, part: str = "", blocks: str = "") -> None:
    """One line a case on standard output."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    # Objectives ask JAX what platform they are on; this process stands for the target's.
    jax.default_backend = lambda: TARGETS[name].platform
    if blocks:
        RULES.update(dict.fromkeys(RULES, RULES[blocks]))
    device = topology(name).devices[0]
    for case in cases(dtype):
        if part in case.name:
            print(json.dumps(one(case, device, name)), flush=True)


def one(case: Case, device, target: str) -> dict:
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
    text = compiled.as_text()
    program = read(text)
    seconds = time.perf_counter() - began
    row = program._asdict() | {"launches": program.launches, "loops": [list(loop) for loop in program.loops]}
    row |= of_kernels(text, program.cycles, target)
    budget = {"most": case.most, "trips": case.trips, "most_cycles": case.cycles}
    return {"name": case.name, "seconds": round(seconds, 2), **budget, **row}


def of_kernels(text: str, cycles: float | None, target: str) -> dict:
    """What hand-written kernels add to the cycles of a TPU, and the bytes that they spill on a GPU."""
    dump = Path(os.environ[DUMP])
    if target == "h100":
        return {"spilled": spilled(dump, next(folder(target).rglob("bin/ptxas")))}
    own = bundles.scheduled(dump, bundles.kernels(text))
    return {"cycles": None if cycles is None or own is None else cycles + own, "spilled": 0}


if __name__ == "__main__":
    main(*sys.argv[1:])
