"""Run by test_spread.py on 4 virtual devices: fits and training over a mesh against one device, as JSON on stdout."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from attnreg import parallel
from attnreg.fit import fit_attention, fit_layer
from attnreg.fit.layer_fit import predict
from attnreg.icl import training
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.layer import LayerObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import replaced
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.rotary import Rotary
from attnreg.solvers import LBFGS
from experiments.benchmarks.scaling import collectives
from tests.parallel_program import error, problem

# Held-out loss of a fit from maps of three digits: below that of the logarithms, above that of Levenberg–Marquardt.
TOLERANCE = 1e-4


def first_documents(data, count):
    """The first `count` documents of a problem whose mask and weight are alike for all."""
    return replaced(data, A1=data.A1[:count], A2=data.A2[:count], B=data.B[:count])


def quantities(objective, x, *, quick):
    """What a solver asks, each as its own program: everything, or two things that compile fast."""
    found = dict(gradient=objective.value_and_grad(x))
    if not quick:
        found |= dict(hessian=objective.value_grad_hessian(x), rounding=objective.rounding(x))
        found |= dict(kronecker=jax.tree.leaves(objective.preconditioner(x)))
    for gauss_newton, cache in ((True, "auto"),) if quick else ((True, "auto"), (False, "none"), (False, "entries")):
        line = objective.linearize(x, gauss_newton=gauss_newton, cache=cache)
        found[f"{cache} {gauss_newton}"] = line.hvp(jax.tree.map(lambda a: a + 1, x))
    return found


def objectives(*, quick):
    """Errors of a spread objective's quantities and of solves on it, in eps of the largest entry."""
    errors, steps = {}, {}
    of_documents, of_rows = (first_documents(problem("masked"), count) for count in (8, 6))
    cases = dict(X=AttentionObjective(of_rows), factors=FactoredObjective(of_documents, 2))
    for name, whole in cases.items():
        spread = parallel.spread(whole)
        x = jax.tree.map(lambda a: a + 0.1, whole.start())
        got, wanted = quantities(spread, x, quick=quick), quantities(whole, x, quick=quick)
        errors |= {f"{name} over {spread.over}: {key}": error(got[key], wanted[key]) for key in wanted}
    if quick:
        return errors, steps
    errors["spectral start"] = error(spread.start(), whole.start())
    alone, shared = LBFGS().run(whole, x), LBFGS().run_on_host(spread, spread.place(x))
    steps["LBFGS"] = [int(alone.steps), int(shared.steps)]
    return errors, steps


def layer_quantities():
    """Errors of a spread layer, with a mask for each document and rotary positions, in eps of the largest entry."""
    rng = np.random.default_rng(1)
    A, B, mask = rng.normal(size=(8, 12, 6)), rng.normal(size=(8, 12, 3)), rng.random((8, 12, 12)) < 0.8
    whole = LayerObjective(
        LayerRegression(A, B, mask, causal=True, rotary=Rotary(width=2, base=100.0)), 4, 2, 2, None, 2
    )
    spread, x = parallel.spread(whole), whole.small_start(jax.random.key(1), 1.0)
    v, errors = jax.tree.map(lambda a: a + 1, x), {}
    errors["gradient"] = error(spread.value_and_grad(x), whole.value_and_grad(x))
    for gauss_newton, cache in ((True, "none"), (True, "entries"), (False, "entries")):
        got, wanted = (o.linearize(x, gauss_newton=gauss_newton, cache=cache).hvp(v) for o in (spread, whole))
        errors[f"{cache} {gauss_newton}"] = error(got, wanted)
    return errors


def layer_fits():
    """`fit_layer` on one device and on four: both phases. Six documents do not divide, and are refused."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(24, 24, 6))
    W = LayerWeights(*(rng.normal(size=s) / 2 for s in ((2, 6, 2), (2, 6, 2), (2, 6, 2), (2, 2, 6))))
    B = np.asarray(predict(W, A))
    options = dict(rank=2, heads=2, value_rank=2, heldout=(A[16:], B[16:]), tol=TOLERANCE, seconds=600)
    alone, shared = (fit_layer(A[:16], B[:16], mesh=mesh, **options) for mesh in (None, parallel.make_mesh()))
    try:
        fit_layer(A[:6], B[:6], mesh=parallel.make_mesh(), **options)
        refused = ""
    except ValueError as error_:
        refused = str(error_)
    ends = [
        dict(heldout=fit.heldout, reason=fit.reason, phases=sorted({row[1] for row in fit.trace}))
        for fit in (alone, shared)
    ]
    return dict(ends=ends, refused=refused)


def training_run(train, model, task, seeds):
    """Thirty steps on one device and on the mesh: the gap of weights, and what travels in the program of a chunk."""
    runs = training.make_runs(task, seeds=range(seeds), learning_rates=(3e-3,))
    chunk = functools.partial(training.train_chunk, task=task, model=model, train=train, length=30)
    start = training.start(runs, task=task, model=model, train=train)
    alone, losses = chunk(start, runs)
    mesh = training.training_mesh(seeds, train.batch)
    assert mesh is not None
    placed = parallel.place((start, runs), mesh, PartitionSpec(training.SEEDS))
    shared, shared_losses = parallel.gathered(chunk(*placed, mesh=mesh))
    gaps = [error(shared.weights, alone.weights), error(shared_losses, losses)]
    lowered = training.train_chunk.lower(*placed, task=task, model=model, train=train, length=30, mesh=mesh)
    same_keys = bool(jnp.all(jax.random.key_data(shared.key) == jax.random.key_data(alone.key)))
    size = sum(leaf.size for leaf in jax.tree.leaves(alone.weights)) // seeds
    moved = collectives(lowered.compile().as_text())
    return dict(shape=dict(mesh.shape), gaps=gaps, moved=moved, same_keys=same_keys, weights=size)


def fits():
    """`fit_attention` on rounded maps, which needs both phases: one device and four, by documents and by rows."""
    rng = np.random.default_rng(0)
    A, Q, K = (rng.normal(size=s) for s in ((6, 24, 6), (6, 2), (6, 2)))
    S = A @ Q @ K.T @ np.swapaxes(A, 1, 2)
    maps = np.exp(S - S.max(-1, keepdims=True))
    maps /= maps.sum(-1, keepdims=True)
    noisy = np.round(maps, 3)
    found = []
    for count in (4, 3):
        options = dict(rank=2, heldout=(A[4:], maps[4:]), tol=TOLERANCE)
        alone, shared = (
            fit_attention(A[:count], noisy[:count], mesh=mesh, **options) for mesh in (None, parallel.make_mesh())
        )
        products = [fit.weights.Q @ fit.weights.K.T for fit in (alone, shared)]
        gap = float(np.abs(products[0] - products[1]).max() / np.abs(products[0]).max())
        phases = sorted({row[1] for row in shared.trace})
        found.append(dict(gap=gap, heldout=[alone.heldout, shared.heldout], phases=phases, reason=shared.reason))
    return found


def refusals():
    """What cannot be shared, in the words of the error."""
    data = first_documents(problem("plain"), 3)
    square = AttentionRegression(data.A1[:, :16], data.A2, data.B[:, :16], causal=True)
    cases = (
        lambda: parallel.spread(AttentionObjective(replaced(data, A1=data.A1[:, :23], B=data.B[:, :23]))),
        lambda: parallel.spread(AttentionObjective(square)),
        lambda: training.training_mesh(3, 30),
    )
    found = []
    for case in cases:
        try:
            case()
            found.append("accepted")
        except ValueError as refused:
            found.append(str(refused))
    kept = parallel.spread(AttentionObjective(square), strict=False)
    return [*found, type(kept).__name__]


def main(quick):
    """Print what was found: with `quick`, training and the gradients and products of objectives."""
    task = TaskConfig(kind="linear", dimension=3, length=4, queries=2, dtype="float64")
    model = ModelConfig(attention=("linear",), init_scale=0.1)
    train = training.TrainConfig(steps=30, batch=16)
    errors, steps = objectives(quick=quick)
    found = dict(errors=errors, steps=steps, refusals=refusals(), layer=layer_quantities())
    if quick:
        found |= dict(trainings=[training_run(train, model, task, seeds) for seeds in (4, 2)])
    else:
        found |= dict(fits=fits(), layer_fits=layer_fits())
    print(json.dumps(found))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main(sys.argv[1] == "quick")
