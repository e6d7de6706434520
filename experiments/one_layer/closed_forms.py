"""One-layer teacher–student: exactness and speed of the closed forms, memory, and time to the global minimum against
peers."""

import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from experiments.benchmarks import large_instance
from experiments.one_layer import peers
from experiments.runner import figures
from experiments.runner.record import Record


def run(config: Any, record: Record) -> dict[str, Any]:
    """The parts named in `config.parts`."""
    parts = {"derivatives": _derivatives, "hessian_speed": _hessian_speed, "memory": _memory, "race": _race}
    return {name: parts[name](config, record) for name in config.parts}


def _plain(data: peers.Data):
    """The loss over one vector, for autodiff."""
    return lambda v: jnp.sum(peers.residuals(v, data) ** 2)


def _derivatives(config: Any, record: Record) -> list[dict]:
    """Worst disagreement with autodiff, relative to the largest entry, in units of eps."""
    rows = []
    for dtype in (jnp.float64, jnp.float32):
        data = jax.tree.map(lambda x, t=dtype: x.astype(t), peers.instance(config.seed, config.check_n, config.check_d))
        problem, d = OneLayerRegression(*data), config.check_d
        vector = jax.random.normal(jax.random.key(1), (2 * d * d,), dtype)
        params = Unknowns(vector[: d * d].reshape(d, d), vector[d * d :].reshape(d, d))
        have = jax.jit(OneLayerObjective(problem).value_grad_hessian)(params)
        loss = _plain(data)
        want = jax.jit(lambda v, f=loss: (f(v), jax.grad(f)(v), jax.jacfwd(jax.grad(f))(v)))(vector)
        for name, mine, theirs in zip(
            ("value", "gradient", "Hessian"), (have[0], ravel_pytree(have[1])[0], have[2]), want, strict=True
        ):
            error = float(jnp.max(jnp.abs(mine - theirs)) / jnp.max(jnp.abs(theirs))) / float(jnp.finfo(dtype).eps)
            rows.append(dict(dtype=str(jnp.dtype(dtype)), quantity=name, error_eps=error))
    record.table("derivatives", ("dtype", "quantity", "error / eps"), [list(r.values()) for r in rows])
    return rows


def _hessian_speed(config: Any, record: Record) -> dict[str, float]:
    """CPU time of the joint Hessian against `jax.hessian` of the plain loss, interleaved."""
    n, d = config.hessian_n, config.hessian_d
    data = peers.instance(config.seed, n, d)
    vector = jax.random.normal(jax.random.key(1), (2 * d * d,))
    params = Unknowns(vector[: d * d].reshape(d, d), vector[d * d :].reshape(d, d))
    ours, theirs = jax.jit(OneLayerObjective(OneLayerRegression(*data)).hessian), jax.jit(jax.hessian(_plain(data)))
    jax.block_until_ready((ours(params), theirs(vector)))
    times: dict[str, list[float]] = {"closed form": [], "jax.hessian": []}
    for _ in range(config.repeats):
        for name, call in (("closed form", lambda: ours(params)), ("jax.hessian", lambda: theirs(vector))):
            started = time.process_time()
            jax.block_until_ready(call())
            times[name].append(time.process_time() - started)
    out = {name: float(np.min(t)) for name, t in times.items()}
    out["ratio"] = out["jax.hessian"] / out["closed form"]
    record.table("hessian_speed", tuple(out), [list(out.values())])
    return out


def _memory(config: Any, record: Record) -> list[dict]:
    """Bytes the compiled programs need beside their arguments, the same of autodiff, and a run's peak memory."""
    rows = []
    for n in config.memory_ns:
        shape = jax.ShapeDtypeStruct((1, n, config.memory_d), jnp.float64)
        square = jax.ShapeDtypeStruct((config.memory_d, config.memory_d), jnp.float64)
        params = Unknowns(cast(Any, square), cast(Any, square))

        def problem(A1, A2, A3, B):
            return OneLayerObjective(OneLayerRegression(A1, A2, A3, B))

        def value_and_grad(data, params):
            return problem(*data).value_and_grad(params)

        def hvp(data, params, v):
            return problem(*data).hvp(params, v)

        def autodiff(data, params):
            flat = peers.Data(*(x[0] for x in data))
            return jax.value_and_grad(_plain(flat))(ravel_pytree(params)[0])

        data = (shape,) * 4
        for name, program, arguments in (
            ("value and gradient", value_and_grad, (data, params)),
            ("Hessian-vector product", hvp, (data, params, params)),
            ("autodiff value and gradient", autodiff, (data, params)),
        ):
            analysis: Any = jax.jit(program).lower(*arguments).compile().memory_analysis()
            rows.append(dict(n=n, what=name, temporary_gb=analysis.temp_size_in_bytes / 1e9))
    record.table("memory", ("n", "what", "GB"), [list(r.values()) for r in rows])
    record.say(f"n = {config.memory_run}: one value, gradient and Hessian-vector product in a process of its own")
    large = large_instance.measure("one_layer", config.memory_run, config.memory_d)
    columns = ("n", "value and gradient s", "HVP s", "finite", "peak resident GB")
    seconds = large["seconds"]
    row = [config.memory_run, seconds["value_and_grad"], seconds["hvp"], large["finite"], large["peak_bytes"] / 1e9]
    record.table("memory_run", columns, [row])
    return [*rows, large]


def _race(config: Any, record: Record) -> list[dict]:
    """CPU time to the global minimum, same instances for all; ours starts where it wants, peers at X = 0, small Y."""
    started, rows = time.perf_counter(), []
    for n, d, count in peers.chosen(config.race_cells, config.only):
        methods = {name: peers.PEERS[name]() for name in config.peers}
        for number in range(count):
            data = peers.instance(config.seed + number, n, d)
            for name in ("attnreg", *methods):
                if time.perf_counter() - started > config.race_seconds_total:
                    break
                key = jax.random.key(number)
                if name == "attnreg":
                    found = peers.ours(data, key, seconds=config.race_seconds, tol=config.tol)
                else:
                    found = peers.hunt(methods[name], data, key, seconds=config.race_seconds, tol=config.tol)
                rows.append(dict(n=n, d=d, instance=number, method=name, **found._asdict()))
                record.log(len(rows), **rows[-1])
    _race_report(config, record, rows)
    return rows


def _race_report(config: Any, record: Record, rows: list[dict]) -> None:
    table, names = [], list(dict.fromkeys(r["method"] for r in rows))
    cells = sorted({(r["n"], r["d"]) for r in rows})
    wins = [r for r in rows if r["relative"] <= config.tol]
    ours = {(r["n"], r["d"], r["instance"]): r["cpu"] for r in wins if r["method"] == "attnreg"}
    for n, d in cells:
        for name in names:
            mine = [r for r in rows if (r["n"], r["d"], r["method"]) == (n, d, name)]
            solved = {(n, d, r["instance"]): r["cpu"] for r in mine if r in wins}
            ratios = [cpu / ours[which] for which, cpu in solved.items() if which in ours]
            if mine:
                times = peers.median(list(solved.values())), peers.median(ratios)
                table.append([n, d, name, len(mine), len(solved), *times])
    columns = ("n", "d", "method", "instances", "solved", "median CPU s", "over ours, where both solve")
    record.table("race", columns, table)
    figure, axes = figures.canvas(1, max(1, len(cells)))
    for panel, (n, d) in zip(axes[0], cells, strict=False):
        for i, name in enumerate(names):
            mine = [r for r in rows if (r["n"], r["d"], r["method"]) == (n, d, name)]
            panel.scatter([r["cpu"] for r in mine if r["relative"] <= config.tol],
                          [i for r in mine if r["relative"] <= config.tol], s=14)  # fmt: skip
        panel.set(xscale="log", xlabel="CPU seconds to the global minimum", title=f"n = {n}, d = {d}")
        panel.set_yticks(range(len(names)), names, fontsize=7)
    record.figure("race", figure)
