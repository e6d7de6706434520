"""The solution as a function of the data: against differences of re-solved problems, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg import solve
from attnreg.objectives import AttentionObjective, FactoredObjective, JetObjective, OneLayerObjective, jet_problem
from attnreg.problems import AttentionRegression, OneLayerRegression, ProblemError
from attnreg.solvers import LBFGS, NewtonCG, implicit, implicit_solution

RNG = np.random.default_rng(0)
STEP = 1e-4
PRECISE = dict(tol=1e-12, max_steps=100)


def arrays(ones=False):
    """Noisy targets of 7 queries and 6 keys: a minimum with a residual, the last key feature constant if asked."""
    A1, A2 = RNG.normal(size=(7, 2)), RNG.normal(size=(6, 2))
    if ones:
        A2[:, 1] = 1
    S = A1 @ RNG.normal(size=(2, 2)) @ A2.T
    B = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True) + 0.03 * RNG.normal(size=(7, 6))
    return dict(A1=A1, A2=A2, B=B, ridge=np.asarray(0.01))


def of_attention(data):
    return AttentionObjective(AttentionRegression(**data))


def of_factors(data):
    return FactoredObjective(AttentionRegression(**data), 1)


def of_layer(data):
    A3 = jnp.asarray(np.linspace(-1, 1, 12).reshape(6, 2))
    return OneLayerObjective(OneLayerRegression(data["A1"], data["A2"], A3, data["B"][:, :2], ridge_y=data["ridge"]))


def quantity(objective):
    """A number that the gauge cannot change: of the predicted logits, and of the values."""
    params = solve(objective, **PRECISE, method="newton").params
    X = params.product() if hasattr(params, "product") else getattr(params, "X", params)
    S = objective.problem.A1[0] @ X @ objective.problem.A2[0].T
    S = S - jnp.mean(S, axis=1, keepdims=True)
    return jnp.sum(jnp.sin(S)) + (jnp.sum(params.Y**2) if hasattr(params, "Y") else 0.0)


CASES = {
    "attention": (of_attention, False),
    "softmax gauge": (of_attention, True),
    "gauge of factors": (of_factors, False),
    "one layer": (of_layer, False),
}


@pytest.mark.parametrize(
    ("name", "dense"), [*((name, True) for name in CASES), ("softmax gauge", False), ("gauge of factors", False)]
)
def test_the_derivative_of_a_solve_in_its_data_is_that_of_differences(monkeypatch, name, dense):
    build, ones = CASES[name]
    if not dense:
        monkeypatch.setattr(implicit, "DENSE_UNKNOWNS", 0)
    data = {k: jnp.asarray(v) for k, v in arrays(ones).items()}
    along = {k: jnp.asarray(RNG.normal(size=v.shape)) for k, v in data.items()}
    along["ridge"] = jnp.asarray(0.01)
    if ones:
        along["A2"] = along["A2"].at[:, 1].set(0.0)  # the gauge stays

    def moved(t):
        return quantity(build({k: data[k] + t * along[k] for k in data}))

    want = (float(moved(jnp.asarray(STEP))) - float(moved(jnp.asarray(-STEP)))) / (2 * STEP)
    assert float(jax.grad(moved)(jnp.asarray(0.0))) == pytest.approx(want, rel=1e-5)
    if name == "attention":
        assert float(jax.jit(jax.jacfwd(moved))(jnp.asarray(0.0))) == pytest.approx(want, rel=1e-5)


def test_the_loss_and_second_derivatives_follow_the_solution():
    data = {k: jnp.asarray(v) for k, v in arrays().items()}
    along = jnp.asarray(RNG.normal(size=data["B"].shape))

    def value(t):
        return solve(of_attention(data | {"B": data["B"] + t * along}), **PRECISE, method="newton").value

    def slope(t):
        return float(jax.grad(value)(jnp.asarray(t)))

    assert slope(0.0) == pytest.approx((float(value(STEP)) - float(value(-STEP))) / (2 * STEP), rel=1e-6)
    curvature = (slope(STEP) - slope(-STEP)) / (2 * STEP)
    for mode in (jax.jacfwd(jax.grad(value)), jax.grad(jax.grad(value))):
        assert float(mode(jnp.asarray(0.0))) == pytest.approx(curvature, rel=1e-5)


def test_the_derivative_runs_under_vmap_and_for_a_solution_found_elsewhere():
    data = {k: jnp.asarray(v) for k, v in arrays().items()}
    x = NewtonCG(tol=1e-12).run_on_host(of_attention(data), jnp.zeros((2, 2))).params

    def here(B):
        return jnp.sum(implicit_solution(of_attention(data | {"B": B}), x) ** 3)

    def solved(B):
        return jnp.sum(solve(of_attention(data | {"B": B}), **PRECISE, method="newton").params ** 3)

    many = jnp.stack([data["B"], 1.1 * data["B"]])
    slopes = jax.vmap(jax.grad(solved))(many)
    np.testing.assert_allclose(slopes[0], jax.grad(here)(data["B"]), rtol=0, atol=1e-8)
    assert float(jnp.max(jnp.abs(slopes[1] - slopes[0]))) > 1e-6


def test_the_start_does_not_move_the_solution_and_a_plain_solve_is_not_touched():
    objective = of_attention(arrays())
    assert not np.any(jax.grad(lambda x: jnp.sum(solve(objective, x).params))(jnp.zeros((2, 2))))
    assert float(jax.grad(lambda t: solve(objective, t * jnp.ones((2, 2))).value)(0.0)) == 0.0


def test_an_objective_without_curvature_is_refused_in_one_sentence():
    problem = OneLayerRegression(*(RNG.normal(size=s) for s in ((7, 2), (6, 2), (6, 2), (7, 2))))
    jet = jet_problem(problem)

    def loss(t):
        moved = dataclasses.replace(jet, ridge=jet.ridge + t)
        return LBFGS(max_steps=3).run(moved, moved.start()).value

    assert isinstance(jet, JetObjective)
    with pytest.raises(ProblemError, match="derivative of a solve needs linearize, which JetObjective does not have"):
        jax.grad(loss)(jnp.asarray(0.0))
