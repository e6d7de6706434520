"""One value, gradient and Hessian-vector product of a large problem: time and peak memory.

A process of its own, since the peak resident set belongs to a process:
`python -m experiments.benchmarks.large_instance attention 16384 32` (targets from a low-rank teacher), or
`... one_layer 131072 16`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.runner.config import UsageError


def main() -> None:
    """Evaluate and print a JSON object: seconds, peak_bytes (resident), dense_bytes (one n×n array)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(MAKE))
    parser.add_argument("n", type=int)
    parser.add_argument("d", type=int)
    arguments = parser.parse_args()
    import jax

    jax.config.update("jax_enable_x64", True)
    result = evaluate(arguments.kind, arguments.n, arguments.d)
    print(json.dumps(result | {"peak_bytes": peak_bytes(), "dense_bytes": arguments.n**2 * 8}))


def peak_bytes() -> int:
    """Largest resident set of this process image so far.

    `ru_maxrss` survives `exec`: in a process started by a large one it is the parent's size. VmHWM is this image's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(kind: str, n: int, d: int) -> dict[str, Any]:
    """What `main` prints, from a process of its own; `kind` is 'attention' or 'one_layer'."""
    if kind not in MAKE:
        raise UsageError(f"a large instance is one of {', '.join(MAKE)}, not {kind!r}")
    command = [sys.executable, "-m", "experiments.benchmarks.large_instance", kind, str(n), str(d)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def evaluate(kind: str, n: int, d: int) -> dict[str, Any]:
    """Seconds of each product at n queries and keys, compilation excluded, and whether all of it is finite."""
    import jax
    import jax.numpy as jnp

    objective, X, V = MAKE[kind](n, d)
    programs = {
        "value_and_grad": jax.jit(lambda o, x, v: o.value_and_grad(x)),
        "hvp": jax.jit(lambda o, x, v: o.hvp(x, v)),
    }
    seconds, finite = {}, True
    for name, program in programs.items():
        compiled = program.lower(objective, X, V).compile()
        started = time.perf_counter()
        out = jax.block_until_ready(compiled(objective, X, V))
        seconds[name] = time.perf_counter() - started
        finite = finite and all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(out))
    return {"seconds": seconds, "finite": finite}


def _attention(n: int, d: int) -> tuple[Any, Any, Any]:
    """Objective, point and direction; the targets are a rank-d teacher's, so that no n×n array exists."""
    import jax
    import jax.numpy as jnp

    from attnreg.objectives.attention import AttentionObjective
    from attnreg.problems.attention import AttentionRegression, Teacher

    k1, k2, kq, kk, kv = jax.random.split(jax.random.key(0), 5)
    A1, A2, Q, K = (jax.random.normal(key, (n, d)) / jnp.sqrt(d) for key in (k1, k2, kq, kk))
    objective = AttentionObjective(AttentionRegression(A1, A2, Teacher(Q * d**0.25, K * d**0.25)))
    X = objective.zeros()
    return objective, X, jax.random.normal(kv, X.shape)


def _one_layer(n: int, d: int) -> tuple[Any, Any, Any]:
    import jax
    import jax.numpy as jnp

    from attnreg.objectives.one_layer import OneLayerObjective
    from attnreg.problems.one_layer import OneLayerRegression, Unknowns

    keys = jax.random.split(jax.random.key(0), 8)
    A1, A2, A3, B = (jax.random.normal(key, (n, d)) / jnp.sqrt(d) for key in keys[:4])
    X, Y, V, W = (jax.random.normal(key, (d, d)) for key in keys[4:])
    return OneLayerObjective(OneLayerRegression(A1, A2, A3, B)), Unknowns(X, Y), Unknowns(V, W)


MAKE = {"attention": _attention, "one_layer": _one_layer}

if __name__ == "__main__":
    main()
