"""The greedy algorithm contracts by about its spectral error, and reaches the minimum of a regularized problem."""

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.sampled import sampled_hessian
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers.newton import Newton
from attnreg.solvers.sketched import SketchedNewton


def objective():
    keys = jax.random.split(jax.random.key(1), 3)
    A1, A2 = jax.random.normal(keys[0], (20, 2)), jax.random.normal(keys[1], (15, 2))
    B = jax.nn.softmax(jax.random.normal(keys[2], (20, 15)), axis=-1)
    return AttentionObjective(AttentionRegression(A1, A2, B, weight=1.0))


def test_reaches_the_minimum_and_contracts_faster_with_more_samples():
    problem = objective()
    best = Newton(tol=1e-12).run(problem, problem.zeros()).params
    start = best + 0.1
    rates = []
    for samples in (200, 20000):
        result = SketchedNewton(sampled_hessian, samples, tol=1e-9, safeguard=False).run(problem, start)
        assert bool(result.converged)
        steps = int(result.steps)
        distance = float(jnp.linalg.norm(result.params - best) / jnp.linalg.norm(start - best))
        rates.append(max(distance, 1e-10) ** (1 / steps))
    assert rates[0] < 0.4
    assert rates[1] < rates[0]


def test_the_same_seed_gives_the_same_path():
    problem = objective()
    runs = [SketchedNewton(sampled_hessian, 100, max_steps=3).run(problem, problem.zeros()) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].params, runs[1].params)
