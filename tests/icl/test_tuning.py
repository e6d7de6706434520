"""Step sizes: the closed form against Monte Carlo and published numbers, searches against known optima."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import descent, tasks, tuning
from attnreg.icl.tasks import TaskConfig

sample = jax.jit(tasks.sample, static_argnums=(1, 2))
descent_logits = jax.jit(tuning.descent_logits, static_argnums=0)
LINEAR = TaskConfig(
    kind="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5, dtype="float64"
)
SOFTMAX = TaskConfig(kind="softmax", dimension=6, length=14, queries=5, weight_scale=6**-0.5, dtype="float64")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (6.0606, 0.20623, 0.41667)),
        ({"input_scale": 1.0}, (1.5152, 0.82492, 1.66667)),
        ({"length": 25}, (8.6207, 0.11734, 0.41667)),
        ({"length": 20, "dimension": 20}, (6.0302, 0.41457, 0.83333)),
        ({"inputs": "gaussian", "input_scale": 1.0, "dimension": 5, "length": 20}, (0.7692, 1.1538 / 2, 2.5)),
    ],
)
def test_closed_form_gives_the_known_numbers(change, expected):
    np.testing.assert_allclose(tuning.closed_form(dataclasses.replace(LINEAR, **change)), expected, rtol=1e-4)


@pytest.mark.parametrize("inputs", ["gaussian", "exponential"])
def test_closed_form_against_monte_carlo_with_noise(key, inputs):
    task = dataclasses.replace(LINEAR, inputs=inputs, noise=0.4, weight_scale=0.7, input_scale=0.8, queries=4)
    exact, batch = tuning.closed_form(task), sample(key, task, 40_000)
    logits = descent_logits(LINEAR, batch, jnp.array([exact.eta]))
    losses = jnp.mean((logits - batch.answers) ** 2, axis=1) / 2
    assert abs(losses.mean() - exact.loss) < 4 * losses.std() / 200
    for factor in (0.9, 1.1):  # and it is the minimum
        moved = tuning.mean_loss(LINEAR, batch, descent_logits(LINEAR, batch, jnp.array([factor * exact.eta])))
        assert moved > losses.mean()
    with pytest.raises(ValueError, match="closed_form"):
        tuning.closed_form(SOFTMAX)


@pytest.mark.parametrize(
    ("steps", "loss"),
    [
        (2, 0.1566),
        pytest.param(1, 0.20623, marks=pytest.mark.slow),
        pytest.param(5, 0.1081, marks=pytest.mark.slow),
        pytest.param(10, 0.0825, marks=pytest.mark.slow),
    ],
)
def test_line_search_reproduces_the_descent_oracles(steps, loss):
    tune, mark = (sample(jax.random.key(seed), LINEAR, 4096) for seed in (11, 12))
    eta, _ = jax.jit(lambda d: tuning.tune_descent(LINEAR, d, steps))(tune)
    logits = descent_logits(LINEAR, mark, jnp.full(steps, eta))
    errors = (logits - mark.answers)[:, 0] ** 2 / 2
    assert abs(errors.mean() - loss) < 4 * errors.std() / 64 + 5e-5


@pytest.mark.slow
def test_learned_gd_plus_reproduces_the_oracle():
    tune, mark = (sample(jax.random.key(seed), LINEAR, 4096) for seed in (11, 12))
    steps, _ = jax.jit(lambda d: tuning.learn_plus(LINEAR, d, 2, shared=True, eta=6.0, gamma=0.1))(tune)
    errors = (jax.vmap(lambda d: descent.gd_plus_logits(d, steps))(mark) - mark.answers)[:, 0] ** 2 / 2
    assert abs(errors.mean() - 0.1100) < 4 * errors.std() / 64
    np.testing.assert_allclose(steps.gamma, 0.176, atol=0.01)
    np.testing.assert_allclose(steps.eta, 13.4, rtol=0.05)


def test_ridge_strength_is_found_and_beats_its_neighbours():
    task = TaskConfig(kind="linear", dimension=6, length=8, queries=4, noise=0.5, dtype="float64")
    batch = sample(jax.random.key(5), task, 4096)
    strength, _ = jax.jit(lambda d: tuning.tune_ridge(task, d))(batch)
    np.testing.assert_allclose(strength, 0.25, rtol=0.15)  # Bayes: noise variance over weight variance


def test_lbfgs_finds_the_minimum_of_a_quadratic(key):
    H = jax.random.normal(key, (4, 4))
    H = H @ H.T + jnp.eye(4)
    best = jnp.arange(1.0, 5.0)
    found, value = jax.jit(
        lambda start: tuning.minimise(lambda x: (x - best) @ H @ (x - best) / 2, start, iterations=30)
    )(jnp.zeros(4))
    np.testing.assert_allclose(found, best, atol=1e-8)
    assert value < 1e-14
