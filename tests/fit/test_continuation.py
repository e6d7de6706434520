"""Solving the rescaled problem from the normalized one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.synthetic import attention_instance
from attnreg.fit.continuation import normalized_first
from attnreg.objectives.attention import AttentionObjective
from attnreg.solvers import Newton


@pytest.mark.parametrize("seed", range(4))
def test_it_ends_at_the_noise_level(seed):
    instance = attention_instance(
        jax.random.key(seed), n=32, d=3, loss="rescaled", noise=1e-3, logit_scale=2.0, dtype=jnp.float64
    )
    objective = AttentionObjective(instance.problem)
    result, first = normalized_first(Newton(tol=1e-9), instance.problem, objective.zeros())
    assert bool(first.converged)
    at_truth = float(objective.value(instance.truth))
    assert float(result.value) <= at_truth
    assert float(objective.value(objective.zeros())) > 10 * at_truth  # the noise level is far below the start


def test_the_gradient_of_the_rescaled_problem_vanishes_at_the_result():
    instance = attention_instance(jax.random.key(1), n=16, d=2, loss="rescaled", noise=1e-2, dtype=jnp.float64)
    objective = AttentionObjective(instance.problem)
    result, _ = normalized_first(Newton(tol=1e-8), instance.problem, objective.zeros())
    start = objective.value_and_grad(objective.zeros())[1]
    end = objective.value_and_grad(result.params)[1]
    assert np.linalg.norm(end) <= 1e-6 * np.linalg.norm(start)


def test_other_losses_are_refused():
    problem = attention_instance(jax.random.key(0), n=4, d=2, dtype=jnp.float64).problem
    with pytest.raises(ValueError, match=r"problem\.loss is 'normalized'"):
        normalized_first(Newton(), problem, jnp.zeros((2, 2)))
