"""What to run first where a GPU or TPU is at hand: `python -m tests.accelerators.card`.

Measures the errors of the hand-written kernels on JAX's default device, times the cases of `tests.accelerators.cases`
there ("fused" is a hand-written kernel, the same name without it the streamed rows), then the quickstart and in-context
training beside a plain loop, then runs the quick tests. Each part is a process of its own, since one process takes the
device's memory. Exit code 1 when a part fails. `--only cases --case "n 2048"` is a part that a CPU can try.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.accelerators.cases import cases

RUN = (sys.executable, "-m", "experiments.run", "--config")
TESTS = ("tests/rows", "tests/lift", "tests/objectives", "tests/solvers", "tests/icl/test_models.py")
PARTS: dict[str, tuple[str, ...]] = {
    "kernels": (sys.executable, "-m", "tests.accelerators.kernels"),
    "cases": (sys.executable, "-m", "tests.accelerators.card", "--here"),
    "quickstart": (*RUN, "configs/quickstart.py", "--force"),
    "icl": (*RUN, "configs/icl_speed.py", "--config.precision=float32", "--force"),
    "tests": (sys.executable, "-m", "pytest", "-n", "0", *TESTS),
}
HEAD = ("case", "ms, median", "ms, least", "runs", "compile s")


def main(argv: Sequence[str] | None = None) -> int:
    """All parts, or those that were asked for; their times and exit codes at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.accelerators.card", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="a part (default: all)")
    parser.add_argument("--case", default="", help="only the cases whose name has this in it")
    parser.add_argument("--most", type=int, default=2048, help="rows of the longest case of the errors of kernels")
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on a case after compiling it")
    parser.add_argument("--here", action="store_true", help="time the cases in this very process")
    options = parser.parse_args(argv)
    if options.here:
        print(f"{jax.devices()[0].device_kind}, {jax.default_backend()}\n" + " | ".join(HEAD), flush=True)
        for row in timed(options.case, options.seconds):
            print(" | ".join(map(str, row)), flush=True)
        return 0
    failed = False
    for name in options.only or PARTS:
        command = PARTS[name]
        if name == "kernels":
            command = (*command, "--most", str(options.most))
        if name == "cases":
            command = (*command, "--case", options.case, "--seconds", str(options.seconds))
        begun = time.perf_counter()
        code = subprocess.run(command, env=environment(), check=False).returncode
        print(f"{name}: exit code {code} after {time.perf_counter() - begun:.0f} s", flush=True)
        failed |= code != 0
    return int(failed)


def environment() -> dict[str, str]:
    """That of this process, with the device named: the tests would otherwise take the CPU."""
    ask = "import jax; print(jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    return {"JAX_PLATFORMS": {"gpu": "cuda"}.get(found, found)} | dict(os.environ)


def timed(part: str, seconds: float) -> Iterator[tuple[Any, ...]]:
    """A row for each case in float32, on random numbers."""
    for case in cases("float32"):
        if part not in case.name:
            continue
        arguments = jax.tree.map(numbers, case.arguments)
        begun = time.perf_counter()
        program = jax.jit(case.function).lower(*arguments).compile()
        compiled = time.perf_counter() - begun
        jax.block_until_ready(program(*arguments))
        spent: list[float] = []
        while not spent or (sum(spent) < seconds and len(spent) < 100):
            begun = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            spent.append(time.perf_counter() - begun)
        yield case.name, f"{1e3 * np.median(spent):.3f}", f"{1e3 * min(spent):.3f}", len(spent), f"{compiled:.1f}"


def numbers(leaf: Any) -> jax.Array:
    """Small random numbers of the shape and dtype of a leaf of a case."""
    drawn = np.random.default_rng(leaf.size).normal(size=leaf.shape)
    return jnp.asarray(0.1 * np.abs(drawn), leaf.dtype)


if __name__ == "__main__":
    sys.exit(main())
