"""One table runs every solver on every objective: it lowers the loss, or is refused by a message that says what is
missing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attnreg import objectives, solvers
from attnreg.objectives import (
    AttentionObjective,
    FactoredObjective,
    KnownValues,
    LayerObjective,
    Objective,
    OneLayerObjective,
    Pulled,
    SecondOrderObjective,
    StackedObjective,
    VariableProjection,
    jet_problem,
)
from attnreg.objectives.sampled import sampled_hessian, sampled_joint_hessian
from attnreg.problems import AttentionRegression, LayerRegression, OneLayerRegression, ProblemError, Rotary
from attnreg.solvers import LBFGS, GradientDescent, Newton, NewtonCG, Optax, SketchedNewton, Solver, Status


@functools.cache
def data():
    """Small problems of each kind: 2 documents of 10 queries and 8 keys, d = 2, outputs of width 3."""
    rng = np.random.default_rng(0)
    A1, A2, A3 = rng.normal(size=(2, 10, 2)), rng.normal(size=(2, 8, 2)), rng.normal(size=(2, 8, 2))
    f = np.asarray(jax.nn.softmax(A1 @ rng.normal(size=(2, 2)) @ A2.swapaxes(1, 2), axis=-1))
    B = f + 1e-3 * rng.normal(size=f.shape)
    outputs = f @ A3 @ rng.normal(size=(2, 3))
    return AttentionRegression(A1, A2, B), OneLayerRegression(A1, A2, A3, outputs), LayerRegression(A1, outputs)


OBJECTIVES = {
    "AttentionObjective": lambda: AttentionObjective(data()[0]),
    "FactoredObjective": lambda: FactoredObjective(data()[0], 1),
    "StackedObjective": lambda: StackedObjective(dataclasses.replace(data()[0], rotary=Rotary(2))),
    "OneLayerObjective": lambda: OneLayerObjective(data()[1]),
    "VariableProjection": lambda: VariableProjection(data()[1]),
    "KnownValues": lambda: KnownValues(data()[1], jnp.ones((2, 3)), rank=1),
    "LayerObjective": lambda: LayerObjective(data()[2], heads=1, rank=1),
    "JetObjective": lambda: jet_problem(data()[1]),
    "Pulled": lambda: Pulled(AttentionObjective(data()[0]), jnp.full((2, 2), 0.1), jnp.array(0.01)),
}
SOLVERS = {
    "Newton": Newton(max_steps=3),
    "NewtonCG": NewtonCG(max_steps=10, max_cg=10),
    "LBFGS": LBFGS(max_steps=6),
    "Optax": Optax(optax.adam(1e-2), max_steps=20),
    "GradientDescent": GradientDescent(max_steps=6),
    "SketchedNewton": SketchedNewton(sampled_hessian, 200, max_steps=3),
}
SECOND_ORDER = "does not have; use a first-order solver: LBFGS, or Optax"
REFUSED = {
    ("Newton", "JetObjective"): f"value_grad_hessian and preconditioner, which JetObjective {SECOND_ORDER}",
    ("NewtonCG", "JetObjective"): f"linearize and preconditioner, which JetObjective {SECOND_ORDER}",
    ("GradientDescent", "JetObjective"): f"preconditioner, which JetObjective {SECOND_ORDER}",
} | {
    ("SketchedNewton", name): f"sampled_hessian samples an AttentionObjective, not a {name}"
    for name in OBJECTIVES
    if name != "AttentionObjective"
}


def test_the_tables_are_complete():
    concrete = {name for name in objectives.__all__ if _is_concrete(getattr(objectives, name), Objective)}
    assert concrete == set(OBJECTIVES)
    assert {name for name in solvers.__all__ if _is_concrete(getattr(solvers, name), Solver)} == set(SOLVERS)


def _is_concrete(thing, base):
    return isinstance(thing, type) and issubclass(thing, base) and not getattr(thing, "__abstractmethods__", None)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_solver_on_every_objective(solver, objective):
    made, target = SOLVERS[solver], OBJECTIVES[objective]()
    start = target.start()
    if (solver, objective) in REFUSED:
        with pytest.raises(ProblemError, match=REFUSED[solver, objective]):
            made.run(target, start)
        return
    result = made.run(target, start)
    assert Status(int(result.status)) in (Status.CONVERGED, Status.AT_ROUNDING, Status.MAX_STEPS)
    assert float(result.value) < float(target.value(start))
    assert float(result.value) == pytest.approx(float(target.value(result.params)), rel=1e-9)


def test_a_first_order_objective_takes_descent_with_a_step_size_and_joint_sampling_a_layer():
    jet, layer = OBJECTIVES["JetObjective"](), OBJECTIVES["OneLayerObjective"]()
    assert not isinstance(jet, SecondOrderObjective)
    descended = GradientDescent(step_size=1e-2, max_steps=5).run(jet, jet.start())
    assert float(descended.value) < float(jet.value(jet.start()))
    sampled = SketchedNewton(sampled_joint_hessian, 64, max_steps=3).run(layer, layer.start())
    assert float(sampled.value) < float(layer.value(layer.start()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_does_nothing_once_the_status_is_not_running(solver):
    made, target = SOLVERS[solver], OBJECTIVES["AttentionObjective"]()
    state = made.init(target, target.start())
    for status in (Status.CONVERGED, Status.STALLED, Status.BAD_START):
        ended = state._replace(status=jnp.asarray(status, jnp.int32))
        jax.tree.map(np.testing.assert_array_equal, _numbers(made.step(target, ended)), _numbers(ended))


def _numbers(state):
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)


@pytest.mark.parametrize("solver", SOLVERS)
def test_history_says_what_its_control_column_is(solver):
    made, target = SOLVERS[solver], OBJECTIVES["AttentionObjective"]()
    result = dataclasses.replace(made, max_steps=1, tol=0.0).run(target, target.start())
    assert len(made.CONTROL) > 5
    assert result.history.control.shape == (2,)
    assert np.isfinite(float(result.history.control[1]))


def test_no_objective_and_no_start_of_another_shape():
    target = OBJECTIVES["AttentionObjective"]()
    with pytest.raises(ProblemError, match="objective is a AttentionRegression; Newton needs an objective"):
        Newton().run(data()[0], target.start())
    with pytest.raises(ProblemError, match=r"start has shape \(3, 2\); it must be \(2, 2\)"):
        Newton().run(target, jnp.zeros((3, 2)))
    with pytest.raises(ProblemError, match=r"start is a .*; it must be Factors\(Q, K\)"):
        NewtonCG().run(OBJECTIVES["FactoredObjective"](), jnp.zeros((2, 2)))
