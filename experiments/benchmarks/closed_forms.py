"""Closed forms against automatic differentiation of the plain losses: time (interleaved), memory, and agreement."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.objectives.attention import AttentionObjective
from experiments.benchmarks import large_instance
from experiments.benchmarks.cells import Cell, make_cell
from experiments.benchmarks.timing import Samples, interleave, paired_ratio
from experiments.runner.record import Record

COLUMNS = (
    "what",
    "cell",
    "ours_s",
    "autodiff_s",
    "speedup",
    "speedup_cpu",
    "difference",
    "ours_mb",
    "autodiff_mb",
    "map_mb",
)
MB = 1e6


def run(config: Any, record: Record) -> dict[str, Any]:
    """All comparisons of the config; `speedup` is autodiff's time over ours, the median over rounds."""
    rows = []
    jobs = [("hessian", name, against_jax_hessian) for name in config.hessian.split(",")]
    jobs += [("hessian over two autodiff HVPs", name, against_two_hvps) for name in config.hessian_as_hvps.split(",")]
    jobs += [("value and gradient", name, against_value_and_grad) for name in config.gradient.split(",")]
    for what, name, compare in jobs:
        rows.append((what, name, *compare(make_cell(name, seed=config.seed), config)))
        record.say(f"{what}, {name}: {rows[-1][4]:.3g} times faster ({rows[-1][5]:.3g} in CPU time)")
        jax.clear_caches()
    record.table("closed_forms", COLUMNS, rows)
    large = large_instance.measure("attention", config.large.n, config.large.d)
    record.table(
        "large_instance",
        ("n", "d", "value_and_grad_s", "hvp_s", "peak_gb", "dense_map_gb"),
        [
            (
                config.large.n,
                config.large.d,
                large["seconds"]["value_and_grad"],
                large["seconds"]["hvp"],
                large["peak_bytes"] / 1e9,
                large["dense_bytes"] / 1e9,
            )
        ],
    )
    return {"closed_forms": [dict(zip(COLUMNS, row, strict=True)) for row in rows], "large_instance": large}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """A compiled call ready to run, and the MB of its temporaries (XLA's own accounting)."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    return lambda: program(*arguments), float("nan") if memory is None else memory.temp_size_in_bytes / MB


def compare(ours: Any, theirs: Any, difference: float, cell: Cell, config: Any) -> tuple:
    """The numbers of a row from two `compiled` results."""
    times = interleave({"ours": ours[0], "autodiff": theirs[0]}, rounds=config.rounds, seconds=config.seconds)
    a, b = times["ours"], times["autodiff"]
    k, n, m, _, _ = cell.problem.sizes
    return (*_speedups(a, b), difference, ours[1], theirs[1], k * n * m * cell.x0.dtype.itemsize / MB)


def _speedups(a: Samples, b: Samples) -> tuple[float, float, float, float]:
    return a.median, b.median, paired_ratio(b, a), paired_ratio(b, a, cpu=True)


def _point(cell: Cell, seed: int) -> jax.Array:
    """A point away from the start, where nothing is special."""
    return jax.random.normal(jax.random.key(seed), cell.x0.shape, cell.x0.dtype) / 2


def _relative(ours: jax.Array, theirs: jax.Array) -> float:
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


def against_jax_hessian(cell: Cell, config: Any) -> tuple:
    """The exact Hessian against `jax.hessian` of the plain loss."""
    x, objective = _point(cell, config.seed), AttentionObjective(cell.problem)
    ours = compiled(lambda o, x: o.hessian(x), objective, cell.ours(x))
    theirs = compiled(lambda x, data: jax.hessian(cell.loss)(x, data).reshape(x.size, x.size), x, cell.data)
    return compare(ours, theirs, _relative(ours[0](), theirs[0]()), cell, config)


def against_two_hvps(cell: Cell, config: Any) -> tuple:
    """The exact Hessian against two autodiff Hessian-vector products (forward over reverse), one after the other."""
    x, objective = _point(cell, config.seed), AttentionObjective(cell.problem)
    v = _point(cell, config.seed + 1)

    def two(x, v, data):
        def product(v):
            return jax.jvp(lambda x: jax.grad(cell.loss)(x, data), (x,), (v,))[1]

        # The second direction depends on the first product, so that the two cannot be merged.
        first = product(v)
        return first, product(first / jnp.linalg.norm(first))

    ours = compiled(lambda o, x: o.hessian(x), objective, cell.ours(x))
    theirs = compiled(two, x, v, cell.data)
    difference = _relative((ours[0]() @ v.ravel()).reshape(v.shape), theirs[0]()[0])
    return compare(ours, theirs, difference, cell, config)


def against_value_and_grad(cell: Cell, config: Any) -> tuple:
    """Value and gradient against `jax.value_and_grad` of the plain loss."""
    x, objective = _point(cell, config.seed), AttentionObjective(cell.problem)
    ours = compiled(lambda o, x: o.value_and_grad(x), objective, cell.ours(x))
    theirs = compiled(jax.value_and_grad(cell.loss), x, cell.data)
    return compare(ours, theirs, _relative(ours[0]()[1].reshape(x.shape), theirs[0]()[1]), cell, config)
