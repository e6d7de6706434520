"""Each construction equals the explicit algorithm; the softmax one converges at the stated rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import constructions, models
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig
from tests.icl import oracles

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def linear_task(dtype):
    return TaskConfig(kind="linear", dimension=10, length=10, queries=4, inputs="uniform", input_scale=0.5, dtype=dtype)


def softmax_task(dtype, n, m):
    return TaskConfig(kind="softmax", dimension=10, length=n, queries=m, weight_scale=10**-0.5, dtype=dtype)


def documents(task):
    return jax.jit(sample, static_argnums=(1, 2))(jax.random.key(7), task, 16)


@functools.partial(jax.jit, static_argnums=1)
def answers(weights, config, batch):
    return jax.vmap(lambda document: models.logits(weights, config, document))(batch)


def wide(batch):
    return [
        jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], "float64"), batch) for i in range(batch.targets.shape[0])
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "shared"), [(1, False), (5, False), (2, True)])
def test_linear_layers_are_gradient_steps(dtype, K, shared):
    batch, eta = documents(linear_task(dtype)), 5.5
    weights = constructions.linear_descent(jnp.full(1 if shared else K, eta), 10, dtype=dtype)
    found = answers(weights, ModelConfig(attention=("linear",) * K, shared=shared), batch)
    expected = [d.queries @ oracles.linear_descent(d.context, d.targets, eta, K) for d in wide(batch)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [10, 25])
def test_one_linear_layer_is_one_softmax_regression_step(dtype, n):
    task, eta = softmax_task(dtype, n, n), 5.6
    batch = documents(task)
    weights = constructions.linear_descent(jnp.array([constructions.gain(task, eta)]), 10, dtype=dtype)
    found = answers(weights, ModelConfig(attention=("linear",), tokens=TokenConfig(targets="simplex")), batch)
    expected = np.array([d.queries @ oracles.softmax_descent(d.context, d.targets, eta, 1) for d in wide(batch)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * max(1, abs(expected).max()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_layers_are_gd_plus(dtype):
    batch, etas, gammas = documents(linear_task(dtype)), np.array([13.4, 9.0, 4.0]), np.array([0.176, 0.1, 0.0])
    weights = constructions.linear_descent(etas, 10, dtype=dtype, gammas=gammas * 10)
    found = answers(weights, ModelConfig(attention=("linear",) * 3), batch)
    expected = [oracles.gd_plus(d.context, d.targets, d.queries, etas, gammas) for d in wide(batch)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3 * TOLERANCE[dtype])


@pytest.mark.parametrize(("heads", "order"), [(1, 1), (2, 2)])
def test_softmax_layer_tends_to_the_step_at_the_stated_rate(heads, order):
    task = softmax_task("float64", 25, 5)
    batch, gain = documents(task), constructions.gain(task, 5.6)
    config = ModelConfig(attention=("softmax",), heads=heads, tokens=TokenConfig(targets="simplex"))
    step = np.array([d.queries @ oracles.softmax_descent(d.context, d.targets, 5.6, 1) for d in wide(batch)])
    scales, errors = 2.0 ** -np.arange(5, 11), []
    for scale in scales:
        weights = constructions.softmax_step(gain, scale, 10, heads=heads, dtype="float64")
        errors.append(abs(answers(weights, config, batch) - step).max())
    slopes = np.diff(np.log(errors)) / np.diff(np.log(scales))
    np.testing.assert_allclose(slopes[-3:], order, atol=0.05)


def test_two_heads_on_linear_regression_tend_to_the_centred_step():
    batch, eta = documents(linear_task("float64")), 5.0
    weights = constructions.softmax_step(eta, 1e-3, 10, heads=2, dtype="float64")
    found = answers(weights, ModelConfig(attention=("softmax",), heads=2), batch)
    expected = [d.queries @ (eta / 10 * d.context.T @ (d.targets - d.targets.mean())) for d in wide(batch)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="heads"):
        constructions.softmax_step(eta, 1.0, 10, heads=3)


def test_alternating_tokens_copy_then_step():
    batch, eta, code = documents(linear_task("float64")), 5.0, 8
    tokens = TokenConfig(layout="alternating", code=code, scratch=10)
    config = ModelConfig(attention=("softmax", "linear"), tokens=tokens)
    expected = [d.queries @ oracles.linear_descent(d.context, d.targets, eta, 1) for d in wide(batch)]
    errors = []
    for sharpness in (20.0, 40.0, 200.0):
        weights = constructions.copy_and_step(eta, sharpness, 10, code, dtype="float64")
        errors.append(abs(answers(weights, config, batch) - np.array(expected)).max())
    assert errors[2] < 1e-12
    assert errors[1] < errors[0] ** 1.8  # exponential: doubling the sharpness squares the (scaled) error
    with pytest.raises(ValueError, match="code is 7"):
        constructions.copy_and_step(eta, 1.0, 10, 7)
