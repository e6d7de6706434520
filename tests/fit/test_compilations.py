"""Repeated calls compile nothing again: a warm second call of every public entry leaves XLA's compiler alone."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit import METHODS, normalized_first, solve
from attnreg.objectives import AttentionObjective, FactoredObjective, OneLayerObjective, VariableProjection, jet_problem
from attnreg.problems import AttentionRegression, OneLayerRegression
from attnreg.solvers import LBFGS, Newton, NewtonCG, Optax


def problem(seed=0, loss="normalized"):
    rng = np.random.default_rng(seed)
    B = rng.random(size=(1, 9, 7))
    A1, A2 = rng.normal(size=(1, 9, 2)), rng.normal(size=(1, 7, 2))
    return AttentionRegression(A1, A2, B / B.sum(2, keepdims=True), loss)


def layer(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(1, 9, 2))
    return OneLayerRegression(A, A, A, rng.normal(size=(1, 9, 2)))


@pytest.fixture
def compilations():
    """A list that grows by one with every program that XLA compiles."""
    seen: list[str] = []

    def listen(name, *_, **__):
        if name == "/jax/core/compile/backend_compile_duration":
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def evaluate(objective):
    """Every public method of an objective."""
    x = objective.start()
    objective.value(x)
    objective.value_and_grad(x)
    objective.rounding(x)
    if hasattr(objective, "linearize"):
        objective.hvp(x, x)
        objective.hvp(x, x, gauss_newton=True)
        objective.hessian(x)
        objective.gauss_newton(x)
        objective.linearize(x).hvp(x)
        objective.preconditioner(x).solve(x, relative=0.1)


def attention(seed):
    return AttentionObjective(problem(seed))


ONES = np.ones((2, 2))
CALLS = {f"solve {method}": lambda seed, m=method: solve(problem(seed), method=m, max_steps=2) for method in METHODS}
CALLS |= {
    "solve adam with a rate": lambda seed: solve(problem(seed), method="adam", learning_rate=0.1, max_steps=2),
    "solve a layer": lambda seed: solve(layer(seed), max_steps=2),
    "Newton on the host": lambda seed: Newton(max_steps=2).run_on_host(attention(seed), ONES),
    "NewtonCG on factors": lambda seed: solve(FactoredObjective(problem(seed), 1), method="newton_cg", max_steps=2),
    "LBFGS": lambda seed: LBFGS(max_steps=2).run(attention(seed), ONES),
    "Optax.named": lambda seed: Optax.named("sgd", learning_rate=0.1, max_steps=2).run(attention(seed), ONES),
    "normalized_first": lambda seed: normalized_first(NewtonCG(max_steps=1), problem(seed, "rescaled"), ONES),
    "attention": lambda seed: evaluate(attention(seed)),
    "factors": lambda seed: evaluate(FactoredObjective(problem(seed), 1)),
    "layer": lambda seed: evaluate(OneLayerObjective(layer(seed))),
    "reduced": lambda seed: evaluate(VariableProjection(layer(seed))),
    "jet": lambda seed: evaluate(jet_problem(layer(seed))),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name, compilations):
    CALLS[name](0)
    compilations.clear()
    CALLS[name](1)
    assert not compilations


def test_the_counter_counts(compilations):
    jax.jit(lambda x: x * 3.25)(jnp.ones(5))
    assert len(compilations) >= 1
