"""Closed forms against automatic differentiation of the plain losses: agreement, time (interleaved) and memory."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from experiments.benchmarks import large_instance
from experiments.benchmarks.cells import Cell, make_cell
from experiments.benchmarks.stored import stored
from experiments.benchmarks.timing import interleave, paired_ratio
from experiments.runner.about import About, Metric
from experiments.runner.config import UsageError
from experiments.runner.record import Record

ABOUT = About(
    "Closed forms beside automatic differentiation",
    "Derivatives in closed form and by JAX's autodiff in turn: agreement, time and memory.",
    (
        Metric("hessian", "times faster than jax.hessian, worst", "higher", "hessian.*.speedup", "min", False),
        Metric("gradient", "times faster than autodiff, worst", "higher", "gradient.*.speedup", "min", False),
        Metric("hvps", "two autodiff HVPs over our Hessian", "higher", "hessian_as_hvps.*.speedup", "min", False),
        Metric("error", "disagreement of derivatives in eps, worst", "lower", "derivatives.*.error_eps", always=False),
        Metric(
            "stored", "dense AᵀDA over that from stored entries, most", "higher", "stored.*.speedup_cpu", "max", False
        ),
        Metric("peak", "largest resident memory, bytes", "lower", "large.*.peak_bytes", always=False),
    ),
)

COLUMNS = (
    "what", "cell", "ours_s", "autodiff_s", "speedup", "speedup_cpu", "ours_least_cpu_s", "autodiff_least_cpu_s",
    "difference", "ours_mb", "autodiff_mb", "map_mb",
)  # fmt: skip
MB = 1e6


def run(config: Any, record: Record) -> dict[str, Any]:
    """The parts named in `config.parts`; each reads its cells from the field of its own name."""
    if unknown := set(config.parts) - set(PARTS):
        raise UsageError(f"config.parts has {unknown.pop()!r}; there are {', '.join(PARTS)}")
    return {name: PARTS[name](config[name], config, record) for name in config.parts}


def derivatives(cells: Sequence[str], config: Any, record: Record) -> list[dict[str, Any]]:
    """Worst disagreement with autodiff, relative to the largest entry, in eps of float64 and of float32."""
    rows = []
    for name in cells:
        for dtype in (jnp.float64, jnp.float32):
            cell = _cast(make_cell(name, seed=config.seed), dtype)
            x = jax.random.normal(jax.random.key(config.seed + 1), cell.x0.shape, dtype)
            have = jax.jit(cell.objective.value_grad_hessian)(cell.ours(x))
            want = jax.jit(lambda x, c=cell: _by_autodiff(c.loss, x, c.data))(x)
            for quantity, a, b in zip(("value", "gradient", "Hessian"), have, want, strict=True):
                error = jnp.max(jnp.abs(ravel_pytree(a)[0] - ravel_pytree(b)[0])) / jnp.max(jnp.abs(b))
                eps = float(error) / float(jnp.finfo(dtype).eps)
                rows.append(dict(cell=name, dtype=str(jnp.dtype(dtype)), quantity=quantity, error_eps=eps))
    record.table("derivatives", ("cell", "dtype", "quantity", "error / eps"), [list(row.values()) for row in rows])
    return rows


def _by_autodiff(loss: Callable[..., jax.Array], x: jax.Array, data: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    return loss(x, data), jax.grad(loss)(x, data), jax.jacfwd(jax.grad(loss))(x, data)


def _cast(cell: Cell, dtype: Any) -> Cell:
    """The cell with all its arrays in another precision."""
    problem, data, x0 = jax.tree.map(lambda leaf: leaf.astype(dtype), (cell.problem, cell.data, cell.x0))
    return cell._replace(problem=problem, data=data, x0=x0)


def _speed(what: str, compare: Callable[[Cell, Any], tuple]) -> Callable[..., list[dict[str, Any]]]:
    """The part that times `compare` on its cells; `speedup` is autodiff's time over ours, the median over rounds."""

    def part(cells: Sequence[str], config: Any, record: Record) -> list[dict[str, Any]]:
        rows = []
        for name in cells:
            rows.append((what, name, *compare(make_cell(name, seed=config.seed), config)))
            record.say(f"{what}, {name}: {rows[-1][4]:.3g} times faster ({rows[-1][5]:.3g} in CPU time)")
            jax.clear_caches()
        record.table(what.replace(" ", "_"), COLUMNS, rows)
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    return part


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """A compiled call ready to run, and the MB of its temporaries (XLA's own accounting)."""
    program = jax.jit(function).lower(*arguments).compile()
    memory: Any = program.memory_analysis()
    return lambda: program(*arguments), float("nan") if memory is None else memory.temp_size_in_bytes / MB


def compare(ours: Any, theirs: Any, difference: float, cell: Cell, config: Any) -> tuple:
    """The numbers of a row from two `compiled` results."""
    times = interleave({"ours": ours[0], "autodiff": theirs[0]}, rounds=config.rounds, seconds=config.seconds)
    a, b = times["ours"], times["autodiff"]
    k, n, m, _, _ = cell.problem.sizes
    ratios = (paired_ratio(b, a), paired_ratio(b, a, cpu=True), a.fastest_cpu, b.fastest_cpu)
    return (a.median, b.median, *ratios, difference, ours[1], theirs[1], k * n * m * cell.x0.dtype.itemsize / MB)


def _point(cell: Cell, seed: int) -> jax.Array:
    """A point away from the start, where nothing is special."""
    return jax.random.normal(jax.random.key(seed), cell.x0.shape, cell.x0.dtype) / 2


def _relative(ours: Any, theirs: Any) -> float:
    a, b = ravel_pytree(ours)[0], ravel_pytree(theirs)[0]
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def against_jax_hessian(cell: Cell, config: Any) -> tuple:
    """The exact Hessian against `jax.hessian` of the plain loss."""
    x = _point(cell, config.seed)
    ours = compiled(lambda o, x: o.hessian(x), cell.objective, cell.ours(x))
    theirs = compiled(lambda x, data: jax.hessian(cell.loss)(x, data).reshape(x.size, x.size), x, cell.data)
    return compare(ours, theirs, _relative(ours[0](), theirs[0]()), cell, config)


def against_two_hvps(cell: Cell, config: Any) -> tuple:
    """The exact Hessian against two autodiff Hessian-vector products (forward over reverse), one after the other."""
    x, v = _point(cell, config.seed), _point(cell, config.seed + 1)

    def two(x: jax.Array, v: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        def product(v: jax.Array) -> jax.Array:
            return jax.jvp(lambda x: jax.grad(cell.loss)(x, data), (x,), (v,))[1]

        # The second direction depends on the first product, so that the two cannot be merged.
        first = product(v)
        return first, product(first / jnp.linalg.norm(first))

    ours = compiled(lambda o, x: o.hessian(x), cell.objective, cell.ours(x))
    theirs = compiled(two, x, v, cell.data)
    difference = _relative(ours[0]() @ v.ravel(), theirs[0]()[0])
    return compare(ours, theirs, difference, cell, config)


def against_value_and_grad(cell: Cell, config: Any) -> tuple:
    """Value and gradient against `jax.value_and_grad` of the plain loss."""
    x = _point(cell, config.seed)
    ours = compiled(lambda o, x: o.value_and_grad(x), cell.objective, cell.ours(x))
    theirs = compiled(jax.value_and_grad(cell.loss), x, cell.data)
    return compare(ours, theirs, _relative(ours[0]()[1], theirs[0]()[1]), cell, config)


def temporaries(cells: Sequence[str], config: Any, record: Record) -> list[dict[str, Any]]:
    """GB that compiled programs need beside their arguments, the same of autodiff; nothing is allocated or run."""
    rows = []
    for name in cells:
        cell = _abstract(name)
        x = jax.eval_shape(cell.ours, cell.x0)
        programs = {
            "value and gradient": (lambda o, x: o.value_and_grad(x), cell.objective, x),
            "Hessian-vector product": (lambda o, x, v: o.hvp(x, v), cell.objective, x, x),
            "autodiff value and gradient": (jax.value_and_grad(cell.loss), cell.x0, cell.data),
        }
        rows += [dict(cell=name, what=what, temporary_gb=compiled(*p)[1] * MB / 1e9) for what, p in programs.items()]
    record.table("temporaries", ("cell", "what", "GB"), [list(row.values()) for row in rows])
    return rows


def _abstract(name: str) -> Cell:
    """The cell with shapes in place of its arrays."""
    made: list[Cell] = []

    def arrays() -> tuple[Any, Any, Any]:
        made.append(make_cell(name, seed=0))
        return made[0].problem, made[0].data, made[0].x0

    problem, data, x0 = jax.eval_shape(arrays)
    return made[0]._replace(problem=problem, data=data, x0=x0)


def large(instances: Sequence[tuple[str, int, int]], config: Any, record: Record) -> list[dict[str, Any]]:
    """A value, gradient and Hessian-vector product of large instances, each in a process of its own, for its memory."""
    rows = []
    for kind, n, d in instances:
        record.say(f"{kind}, n = {n}, d = {d}: one value, gradient and Hessian-vector product")
        rows.append(dict(kind=kind, n=n, d=d) | large_instance.measure(kind, n, d))
    columns = ("kind", "n", "d", "value_and_grad_s", "hvp_s", "finite", "peak_gb", "dense_map_gb")
    shown = [
        (row["kind"], row["n"], row["d"], row["seconds"]["value_and_grad"], row["seconds"]["hvp"], row["finite"],
         row["peak_bytes"] / 1e9, row["dense_bytes"] / 1e9)
        for row in rows
    ]  # fmt: skip
    record.table("large", columns, shown)
    return rows


PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "derivatives": derivatives,
    "hessian": _speed("hessian", against_jax_hessian),
    "hessian_as_hvps": _speed("hessian over two autodiff HVPs", against_two_hvps),
    "gradient": _speed("value and gradient", against_value_and_grad),
    "temporaries": temporaries,
    "large": large,
    "stored": stored,
}
