"""The same fit on any mesh of devices and processes: equality, and what travels between them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from attnreg import parallel as sharding
from attnreg.problems.attention import AttentionRegression
from experiments.runner.about import About, Metric
from experiments.runner.record import Record

ABOUT = About(
    "One fit on many devices",
    "The same fit on a mesh of devices and processes: the values it ends at, and the bytes that travel.",
    (
        Metric("values", "loss at the end, worst start", path="values.*"),
        Metric("devices", "devices that share the work", better=""),
    ),
)

SHARED = "the rows over one axis, the starts over another"
_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "pred": 1}


def run(config: Any, record: Record) -> dict[str, Any]:
    """Damped Gauss–Newton from several starts, rows over one mesh axis and starts over the other."""
    mesh = sharding.make_mesh({"data": jax.device_count() // config.mesh.starts, "starts": config.mesh.starts})
    problem, start = _instance(config)
    specs = sharding.problem_specs(problem, over=config.mesh.over)
    problem = sharding.place(problem, mesh, specs)
    x = sharding.place(start, mesh, PartitionSpec(sharding.STARTS))

    def derivatives(objective: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return objective.value_grad_hessian(x, gauss_newton=True)

    @jax.jit
    @jax.vmap
    def move(x: jax.Array, gradient: jax.Array, matrix: jax.Array) -> jax.Array:
        damped = matrix + config.damping * jnp.eye(x.size, dtype=x.dtype)
        return x - jnp.linalg.solve(damped, gradient.ravel()).reshape(x.shape)

    program = sharding.sharded(derivatives, mesh, over=config.mesh.over, starts="vmap")
    compiled = jax.jit(program).lower(problem, x).compile()
    whole = jax.jit(lambda v: v, out_shardings=jax.NamedSharding(mesh, PartitionSpec()))  # every process reads it
    record.expect(config.steps)
    done, x = record.restore(x)
    values = jnp.zeros(config.starts)
    while done < config.steps:
        values, gradients, matrices = jax.block_until_ready(compiled(problem, x))
        x = move(x, gradients, matrices)
        done += 1
        shown = np.asarray(whole(values))
        record.log(done, worst=shown.max(), best=shown.min())
        record.save(done, x)
    moved = collectives(compiled.as_text() or "")
    packed = (config.d * (config.d + 1) // 2) ** 2
    ideal = (1 + config.d**2 + packed) * (config.starts // config.mesh.starts) * np.dtype(config.precision).itemsize
    columns = ("devices", "processes", "all-reduce bytes a step", "ideal", "other collectives")
    other = sum(n for name, n in moved.items() if name != "all-reduce")
    record.table("scaling", columns, [(mesh.size, jax.process_count(), moved.get("all-reduce", 0), ideal, other)])
    return {
        "values": np.asarray(whole(values)),
        "x": np.asarray(whole(x)),
        "devices": mesh.size,
        "processes": jax.process_count(),
        "collective_bytes": moved,
        "ideal_bytes": ideal,
    }


def _instance(config: Any) -> tuple[AttentionRegression, jax.Array]:
    """A realizable problem of several documents, and random starts; alike in every process."""
    k, n, d = config.documents, config.n, config.d
    keys = jax.random.split(jax.random.key(config.seed), 4)
    a1, a2 = jax.random.normal(keys[0], (k, n, d)), jax.random.normal(keys[1], (k, n, d))
    truth = jax.random.normal(keys[2], (d, d)) / d
    targets = jax.nn.softmax(jnp.einsum("kna,ab,kmb->knm", a1, truth, a2), axis=-1)
    return AttentionRegression(a1, a2, targets), 0.1 * jax.random.normal(keys[3], (config.starts, d, d))


def collectives(program: str) -> dict[str, int]:
    """Bytes that each kind of collective of a compiled program delivers to a device, each instruction once."""
    moved: dict[str, int] = {}
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
    for line in program.splitlines():
        found = re.match(rf"\s*(?:ROOT )?\S+ = (.*?) ({kinds})(?:-start)?\(", line)
        if found:
            size = sum(
                _BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n] or [1]))
                for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1])
            )
            moved[found[2]] = moved.get(found[2], 0) + size
    return moved
