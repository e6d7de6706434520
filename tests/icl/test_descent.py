"""Gradient descent, GD++, Newton and the least-squares references against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.icl import descent, tasks, tuning
from attnreg.icl.tasks import TaskConfig
from tests.icl import oracles

sample = jax.jit(tasks.sample, static_argnums=(1, 2))
descent_logits = jax.jit(tuning.descent_logits, static_argnums=0)
LINEAR = TaskConfig(
    kind="linear", dimension=10, length=10, queries=1, inputs="uniform", input_scale=0.5, dtype="float64"
)
newton = jax.jit(descent.newton, static_argnums=(0, 2))
SOFTMAX = TaskConfig(kind="softmax", dimension=6, length=14, queries=5, weight_scale=6**-0.5, dtype="float64")


def each(batch):
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), batch) for i in range(batch.targets.shape[0])]


def test_gradient_descent_equals_numpy(key):
    for task, oracle, eta in ((LINEAR, oracles.linear_descent, 5.0), (SOFTMAX, oracles.softmax_descent, 3.0)):
        batch = sample(key, task, 4)
        steps = jnp.full(4, eta)
        found = jax.jit(jax.vmap(lambda d, t=task, s=steps: descent.gradient_descent(t, d, s)))(batch)
        expected = np.array([oracle(d.context, d.targets, eta, 4) for d in each(batch)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2.3e-16 * max(1, abs(expected).max()))


def test_gd_plus_equals_numpy_and_gradient_descent_without_gamma(key):
    batch = sample(key, LINEAR, 4)
    steps = descent.PlusSteps(jnp.array([13.4, 8.0]), jnp.array([0.18, 0.1]))
    plus = jax.jit(jax.vmap(descent.gd_plus_logits, in_axes=(0, None)))
    found = plus(batch, steps)
    expected = [oracles.gd_plus(d.context, d.targets, d.queries, *map(np.asarray, steps)) for d in each(batch)]
    np.testing.assert_allclose(found, expected, atol=1e-13)
    plain = plus(batch, steps._replace(gamma=jnp.zeros(2)))
    np.testing.assert_allclose(plain, descent_logits(LINEAR, batch, steps.eta), atol=1e-13)


def test_newtons_iteration_for_the_inverse_equals_numpy_and_its_closed_form(key):
    tall = TaskConfig(kind="linear", dimension=4, length=9, queries=2, noise=0.1, dtype="float64")
    found = jax.jit(descent.inverse_newton, static_argnums=1)
    for d in each(sample(key, tall, 3)):
        A, b = np.asarray(d.context), np.asarray(d.targets)
        values, U = np.linalg.eigh(A.T @ A)
        norm = values[-1] * np.sum((values / values[-1]) ** 1024) ** (1 / 1024)
        assert values[-1] <= norm * (1 + 1e-12) <= values[-1] * (1 + np.log(4) / 1000)
        for steps in (0, 1, 3):
            left = (1 - 0.7 * (values / norm) ** 2) ** (2**steps)
            expected = U @ ((1 - left) / values * (U.T @ (A.T @ b)))
            np.testing.assert_allclose(found(d, steps, 0.7), expected, atol=1e-12)
        np.testing.assert_allclose(found(d, 40, 1.0), np.linalg.lstsq(A, b)[0], atol=1e-10)


def test_references_equal_numpy(key):
    noisy = TaskConfig(kind="linear", dimension=4, length=9, queries=2, noise=0.1, dtype="float64")
    best = jax.jit(descent.best_linear, static_argnums=0)
    for d in each(sample(key, noisy, 3)):
        np.testing.assert_allclose(best(noisy, d, 0.0), np.linalg.lstsq(d.context, d.targets)[0], atol=1e-12)
        normal = np.linalg.solve(d.context.T @ d.context + 0.3 * np.eye(4), d.context.T @ d.targets)
        np.testing.assert_allclose(best(noisy, d, 0.3), normal, atol=1e-12)
    for d in each(sample(key, SOFTMAX, 3)):
        np.testing.assert_allclose(best(SOFTMAX, d, 0.0), d.weights, atol=1e-10)  # noiseless logits are read exactly


def test_newton_equals_numpy_and_finds_the_weights(key):
    noisy = TaskConfig(kind="linear", dimension=4, length=9, queries=2, noise=0.1, dtype="float64")
    document = each(sample(key, noisy, 1))[0]
    np.testing.assert_allclose(newton(noisy, document, 3, 0.3), descent.ridge(document, 0.3), atol=1e-12)
    batch = sample(key, SOFTMAX, 3)
    for d in each(batch):
        found = newton(SOFTMAX, d, 3, 1e-3)
        np.testing.assert_allclose(found, oracles.irls(d.context, d.targets, 1e-3, 3), atol=1e-9)
        np.testing.assert_allclose(newton(SOFTMAX, d, 20, 1e-9), d.weights, atol=1e-4)


def test_newton_as_a_reference_beats_as_many_gradient_steps(key):
    tune, mark = (sample(jax.random.key(seed), SOFTMAX, 64) for seed in (1, 2))
    eta, _ = jax.jit(lambda d: tuning.tune_descent(SOFTMAX, d, 3))(tune)
    w = jax.jit(jax.vmap(lambda d: descent.newton(SOFTMAX, d, 3, 1e-3)))(mark)
    found = tuning.mean_loss(SOFTMAX, mark, tuning.linear_logits(mark, w))
    assert found < 0.1 * tuning.mean_loss(SOFTMAX, mark, descent_logits(SOFTMAX, mark, jnp.full(3, eta)))
