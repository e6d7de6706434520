"""The factored unknown X = QKᵀ: the chain rule on the oracle's derivatives in X, its gauge, its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems import loss_names
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import NewtonCG
from tests.contract import loss_cases as cases
from tests.oracles import factored, scale

EPS = float(np.finfo(np.float64).eps)
RANK = 2
ALLOWED = 4.0
# The chain rule is the same for every loss; two stand for all in the quick suite.
every_loss = pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=() if loss in ("normalized", "rescaled") else pytest.mark.slow) for loss in loss_names()],
)


def draw(loss, seed, size=1.0):
    """A case of the loss contract with factors in place of X."""
    case = cases.draw(seed, loss, size=size)
    rng = np.random.default_rng(seed)
    d1, d2 = case.X.shape
    point, direction = (Factors(rng.normal(size=(d1, RANK)), rng.normal(size=(d2, RANK))) for _ in range(2))
    limit = size / np.max(np.abs(case.data.A1 @ point.Q @ point.K.T @ case.data.A2.swapaxes(1, 2)))
    return case, Factors(point.Q * limit, point.K), direction


@jax.jit
def closed_forms(problem, point, direction):
    objective = FactoredObjective(problem, RANK, block_rows=2)
    value, gradient = objective.value_and_grad(point)
    products = {
        f"hvp, cache {cache}": objective.linearize(point, cache=cache).hvp(direction) for cache in ("none", "entries")
    }
    gauss_newton = objective.linearize(point, gauss_newton=True, cache="none").hvp(direction)
    return {"value": value, "gradient": gradient, "gauss_newton hvp": gauss_newton, **products}


def flat(x):
    return np.concatenate([np.ravel(part) for part in x]) if isinstance(x, tuple) else x


@every_loss
def test_closed_forms_follow_the_chain_rule(loss):
    for seed, size in enumerate((1e-6, 1e-2, 1.0, 20.0)):
        case, point, direction = draw(loss, seed, size)
        exact, unit = factored.evaluate(case.data, *point, EPS)
        v = flat(direction)
        got = closed_forms(case.problem, point, direction)
        pairs = {
            "value": (exact.value, unit.value),
            "gradient": (exact.gradient, unit.gradient),
            "hvp, cache none": (exact.hessian @ v, unit.hessian @ np.abs(v)),
            "hvp, cache entries": (exact.hessian @ v, unit.hessian @ np.abs(v)),
            "gauss_newton hvp": (exact.gauss_newton @ v, unit.gauss_newton @ np.abs(v)),
        }
        found = {name: scale.worst(flat(value), *pairs[name], EPS) for name, value in got.items()}
        assert max(found.values()) <= ALLOWED, (size, found)


def test_dense_hessian_is_in_ravel_order():
    case, point, _ = draw("normalized", 0)
    exact, unit = factored.evaluate(case.data, *point, EPS)
    objective = FactoredObjective(case.problem, RANK, block_rows=2)
    hessian = jax.jit(lambda o, x: o.value_grad_hessian(x)[2])(objective, point)
    assert scale.worst(hessian, exact.hessian, unit.hessian, EPS) <= ALLOWED


def test_the_gauge_changes_nothing():
    case, point, _ = draw("normalized", 1)
    G = np.array([[2.0, 0.3], [-0.4, 0.7]])
    moved = Factors(point.Q @ G, point.K @ np.linalg.inv(G).T)
    # Without the ridge on X there is nothing that could tell them apart; with it, X is the same too.
    objective = FactoredObjective(case.problem, RANK)
    assert float(objective.value(moved)) == pytest.approx(float(objective.value(point)), rel=1e-13)


def test_preconditioner_is_positive_definite():
    case, point, direction = draw("normalized", 2)
    preconditioner = FactoredObjective(case.problem, RANK, block_rows=2).preconditioner(point)
    solved = preconditioner.solve(Factors(*map(jnp.asarray, direction)), relative=1.0)
    assert sum(float(jnp.sum(a * b)) for a, b in zip(solved, direction, strict=True)) > 0


def test_newton_cg_recovers_a_low_rank_map_from_the_spectral_start():
    rng = np.random.default_rng(0)
    A1, A2, Q, K = (rng.normal(size=shape) for shape in ((40, 6), (40, 6), (6, RANK), (6, RANK)))
    B = np.exp(A1 @ Q @ K.T @ A2.T / 6)
    objective = FactoredObjective(AttentionRegression(A1, A2, B / B.sum(axis=1, keepdims=True)), RANK)
    start = jax.jit(lambda objective: objective.spectral_start())(objective)
    value = jax.jit(lambda objective, x: objective.value(x))
    zero = float(value(objective, objective.zeros()))
    assert float(value(objective, start)) < zero
    result = NewtonCG(max_steps=100).run(objective, start)
    assert bool(result.converged)
    assert float(result.value) <= 1e-12 * zero


def test_factors_of_the_wrong_shape_are_refused():
    case, point, _ = draw("normalized", 0)
    with pytest.raises(ValueError, match=r"Q has shape \(2, 2\); it must be \(3, 2\)"):
        FactoredObjective(case.problem, RANK).value(Factors(point.K, point.Q))
