"""Lock-step L-BFGS against the dense Newton solver, one evaluation per step, and its batched race."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers.lbfgs import LBFGS
from attnreg.solvers.newton import Newton
from attnreg.solvers.race import Stage, normal_starts, race, take


@pytest.fixture(scope="module")
def objective():
    keys = jax.random.split(jax.random.key(0), 3)
    A1, A2 = jax.random.normal(keys[0], (12, 3)), jax.random.normal(keys[1], (10, 2))
    B = jax.nn.softmax(jax.random.normal(keys[2], (12, 10)), axis=-1)
    return AttentionObjective(AttentionRegression(A1, A2, B, ridge=0.1))


def test_reaches_newtons_minimum_with_one_evaluation_per_step(objective):
    result = LBFGS(tol=1e-9).run(objective, objective.zeros() + 0.1)
    want = Newton(tol=1e-12).run(objective, objective.zeros())
    assert bool(result.converged)
    np.testing.assert_allclose(result.params, want.params, atol=1e-7)
    assert int(result.counts.gradients) == int(result.steps) + 1


def test_values_never_rise(objective):
    result = LBFGS(tol=1e-9, max_steps=60).run(objective, objective.zeros() + 3.0)
    values = np.asarray(result.history.value)
    values = values[np.isfinite(values)]
    assert np.all(np.diff(values) <= 1e-12)


def test_race_keeps_the_best_of_each_stage_in_order(objective):
    starts = normal_starts(jax.random.key(3), objective.zeros(), 6, scale=3.0)
    first = jax.vmap(LBFGS(max_steps=3).run, (None, 0))(objective, starts)
    order = jnp.argsort(first.value)[:2]
    survivors = race([Stage(LBFGS(max_steps=3), objective, 2)], starts)
    np.testing.assert_allclose(survivors.values, first.value[order], rtol=1e-12)
    np.testing.assert_allclose(survivors.params, take(first.params, order), rtol=1e-9)
    assert int(survivors.evaluations) == int(jnp.sum(first.counts.gradients, dtype=jnp.int32))


def test_race_refuses_to_keep_more_than_it_has(objective):
    starts = normal_starts(jax.random.key(3), objective.zeros(), 2)
    with pytest.raises(ValueError, match="keeps 3 of 2"):
        race([Stage(LBFGS(), objective, 3)], starts)
