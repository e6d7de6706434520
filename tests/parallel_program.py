"""Run by test_parallel.py on 8 virtual devices: every sharded quantity against one device, as JSON on stdout."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from attnreg import parallel as sharding
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression, Teacher
from experiments.benchmarks.scaling import collectives
from tests.solvers import table

K, N, M, D = 8, 24, 16, 4


def problem(kind):
    """One instance of each way in which data can be split."""
    rng = np.random.default_rng(0)
    a1, a2 = rng.normal(size=(K, N, D)), rng.normal(size=(K, M, D))
    targets = rng.dirichlet(np.ones(M), size=(K, N))
    if kind == "teacher":
        targets = Teacher(rng.normal(size=(K, N, 2)), rng.normal(size=(K, M, 2)))
    options = {
        "masked": dict(mask=rng.random((N, M)) < 0.9, weight=0.3, ridge=0.2),
        "full_mask": dict(mask=rng.random((K, N, M)) < 0.9, weight=rng.random((K, 1, M))),
        "rescaled": dict(loss="rescaled"),
    }
    return AttentionRegression(a1, a2, targets, **options.get(kind, {}))


def quantities(objective, x):
    """Everything a solver asks of an objective."""
    value, gradient, hessian = objective.value_grad_hessian(x)
    products = {cache: objective.linearize(x, cache=cache).hvp(x + 1) for cache in ("none", "entries", "blocks")}
    kronecker = jax.tree.leaves(objective.preconditioner(x))
    return dict(value=value, gradient=gradient, hessian=hessian, kronecker=kronecker, **products)


def error(got, expected):
    """Largest difference in units of eps × the largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.abs(a - b).max() / (jnp.abs(b).max() * jnp.finfo(b.dtype).eps)) for a, b in pairs)


def solve_both(solver, data, mesh):
    """A whole solver on one device and over the mesh: steps of both, and the gap of their values."""
    objective = AttentionObjective(data)
    alone = solver.run(objective, objective.start())
    placed = sharding.place(data, mesh, sharding.problem_specs(data))
    spread = jax.jit(sharding.sharded(solver.run, mesh))(placed, objective.start())
    gap = abs(float(alone.value - spread.value)) / float(alone.history.value[0])
    return dict(steps=[int(alone.steps), int(spread.steps)], gap=gap, status=int(spread.status))


def main():
    """Print errors in eps and the collectives of each program."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(D, D)) / 2)
    starts = jnp.stack([x, 2 * x, -x, x.T])
    errors, moved = {}, {}
    mesh = sharding.make_mesh()
    for kind, over in itertools.product(("plain", "teacher", "masked", "full_mask", "rescaled"), ("documents", "rows")):
        data = problem(kind)
        placed = sharding.place(data, mesh, sharding.problem_specs(data, over=over))
        expected = jax.jit(quantities)(AttentionObjective(data), x)
        errors[f"{kind} {over}"] = error(jax.jit(sharding.sharded(quantities, mesh, over=over))(placed, x), expected)
    data = problem("plain")
    placed = sharding.place(data, mesh, sharding.problem_specs(data))
    for name in ("value", "value_and_grad", "hessian", "hvp"):
        arguments = (x, x) if name == "hvp" else (x,)
        call = sharding.sharded(lambda objective, *args, name=name: getattr(objective, name)(*args), mesh)
        moved[name] = collectives(jax.jit(call).lower(placed, *arguments).compile().as_text())
    expected = jnp.stack([AttentionObjective(data).value(start) for start in starts])
    both = sharding.make_mesh({"data": 4, "starts": 2})
    placed = sharding.place(data, both, sharding.problem_specs(data))
    spread = sharding.place(starts, both, PartitionSpec("starts"))
    for mode in ("vmap", "map"):
        value = jax.jit(sharding.sharded(lambda objective, x: objective.value(x), both, starts=mode))
        errors[f"starts {mode}"] = error(value(placed, spread), expected)
    refusals = []
    for wrong in (
        lambda: sharding.make_mesh({"data": 3}),
        lambda: sharding.sharded(lambda objective, x: objective.value(x), mesh)(
            AttentionRegression(data.A1[:1], data.A2[:1], data.B[:1]), x
        ),
        lambda: sharding.problem_specs(
            AttentionRegression(data.A1[:, :M], data.A2, data.B[:, :M], causal=True), over="rows"
        ),
        lambda: sharding.problem_specs(data, over="columns"),
    ):
        try:
            wrong()
            refusals.append("accepted")
        except ValueError as refused:
            refusals.append(str(refused))
    solves = {name: solve_both(row.solver, data, mesh) for name, row in table.SOLVERS.items()}
    keys = sharding.place(jax.random.split(jax.random.key(0), 8), mesh, PartitionSpec("data"))
    same_keys = bool(jnp.all(jax.random.key_data(keys) == jax.random.key_data(jax.random.split(jax.random.key(0), 8))))
    print(json.dumps(dict(errors=errors, moved=moved, refusals=refusals, same_keys=same_keys, solves=solves)))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main()
