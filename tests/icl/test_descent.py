"""Gradient descent and references against NumPy loops; step sizes against closed forms and Monte Carlo."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import descent, tasks, tuning
from attnreg.icl.tasks import TaskConfig
from tests.icl import oracles

sample = jax.jit(tasks.sample, static_argnums=(1, 2))
descent_logits = jax.jit(tuning.descent_logits, static_argnums=0)
newton = jax.jit(descent.newton, static_argnums=(0, 2))
VO = TaskConfig(
    problem="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5, dtype="float64"
)
SOFTMAX = TaskConfig(problem="softmax", dimension=6, length=14, queries=5, weight_scale=6**-0.5, dtype="float64")


def each(batch):
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), batch) for i in range(batch.targets.shape[0])]


def test_gradient_descent_equals_numpy(key):
    for task, oracle, eta in ((VO, oracles.linear_descent, 5.0), (SOFTMAX, oracles.softmax_descent, 3.0)):
        batch = sample(key, task, 4)
        steps = jnp.full(4, eta)
        found = jax.jit(jax.vmap(lambda d, t=task, s=steps: descent.gradient_descent(t.problem, d, s)))(batch)
        expected = np.array([oracle(d.context, d.targets, eta, 4) for d in each(batch)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2.3e-16 * max(1, abs(expected).max()))


def test_gd_plus_equals_numpy_and_gradient_descent_without_gamma(key):
    batch = sample(key, VO, 4)
    steps = descent.PlusSteps(jnp.array([13.4, 8.0]), jnp.array([0.18, 0.1]))
    plus = jax.jit(jax.vmap(descent.gd_plus_logits, in_axes=(0, None)))
    found = plus(batch, steps)
    expected = [oracles.gd_plus(d.context, d.targets, d.queries, *map(np.asarray, steps)) for d in each(batch)]
    np.testing.assert_allclose(found, expected, atol=1e-13)
    plain = plus(batch, steps._replace(gamma=jnp.zeros(2)))
    np.testing.assert_allclose(plain, descent_logits("linear", batch, steps.eta), atol=1e-13)


def test_references_equal_numpy(key):
    for d in each(
        sample(key, TaskConfig(problem="linear", dimension=4, length=9, queries=2, noise=0.1, dtype="float64"), 3)
    ):
        np.testing.assert_allclose(jax.jit(descent.ridge)(d, 0.0), np.linalg.lstsq(d.context, d.targets)[0], atol=1e-12)
        normal = np.linalg.solve(d.context.T @ d.context + 0.3 * np.eye(4), d.context.T @ d.targets)
        np.testing.assert_allclose(newton("linear", d, 3, 0.3), normal, atol=1e-12)
    for d in each(sample(key, SOFTMAX, 3)):
        np.testing.assert_allclose(
            newton("softmax", d, 3, 1e-3), oracles.irls(d.context, d.targets, 1e-3, 3), atol=1e-9
        )
        np.testing.assert_allclose(jax.jit(descent.log_ratio)(d, 0.0), d.weights, atol=1e-10)
        np.testing.assert_allclose(newton("softmax", d, 20, 1e-9), d.weights, atol=1e-4)


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
    np.testing.assert_allclose(tuning.closed_form(dataclasses.replace(VO, **change)), expected, rtol=1e-4)


@pytest.mark.parametrize("inputs", ["gaussian", "exponential"])
def test_closed_form_against_monte_carlo_with_noise(key, inputs):
    task = dataclasses.replace(VO, inputs=inputs, noise=0.4, weight_scale=0.7, input_scale=0.8, queries=4)
    exact, batch = tuning.closed_form(task), sample(key, task, 40_000)
    logits = descent_logits("linear", batch, jnp.array([exact.eta]))
    losses = jnp.mean((logits - batch.answers) ** 2, axis=1) / 2
    assert abs(losses.mean() - exact.loss) < 4 * losses.std() / 200
    for factor in (0.9, 1.1):  # and it is the minimum
        moved = tuning.mean_loss("linear", batch, descent_logits("linear", batch, jnp.array([factor * exact.eta])))
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
    tune, mark = (sample(jax.random.key(seed), VO, 4096) for seed in (11, 12))
    eta, _ = jax.jit(lambda d: tuning.tune_descent("linear", d, steps))(tune)
    logits = descent_logits("linear", mark, jnp.full(steps, eta))
    errors = (logits - mark.answers)[:, 0] ** 2 / 2
    assert abs(errors.mean() - loss) < 4 * errors.std() / 64 + 5e-5


@pytest.mark.slow
def test_learned_gd_plus_reproduces_the_oracle():
    tune, mark = (sample(jax.random.key(seed), VO, 4096) for seed in (11, 12))
    steps, _ = jax.jit(lambda d: tuning.learn_plus(d, 2, shared=True, eta=6.0, gamma=0.1))(tune)
    errors = (jax.vmap(lambda d: descent.gd_plus_logits(d, steps))(mark) - mark.answers)[:, 0] ** 2 / 2
    assert abs(errors.mean() - 0.1100) < 4 * errors.std() / 64
    np.testing.assert_allclose(steps.gamma, 0.176, atol=0.01)
    np.testing.assert_allclose(steps.eta, 13.4, rtol=0.05)


def test_ridge_strength_is_found_and_beats_its_neighbours():
    task = TaskConfig(problem="linear", dimension=6, length=8, queries=4, noise=0.5, dtype="float64")
    batch = sample(jax.random.key(5), task, 4096)
    strength, _ = jax.jit(lambda d: tuning.tune_ridge(d, descent.ridge))(batch)
    np.testing.assert_allclose(strength, 0.25, rtol=0.15)  # Bayes: noise variance over weight variance
