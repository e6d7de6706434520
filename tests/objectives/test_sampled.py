"""Sampled Hessians: unbiased, with a spectral error that falls as 1/√samples; leverage scores against their
definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.sampled import leverage_scores, sampled_hessian, sampled_joint_hessian, spectral_error
from attnreg.problems import AttentionRegression, SoftmaxRegression
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


def test_leverage_scores_are_the_diagonal_of_the_projection_and_sum_to_the_rank():
    A = np.array(jax.random.normal(jax.random.key(0), (9, 4)))
    A[:, 3] = A[:, 0] + A[:, 1]
    want = np.diag(A @ np.linalg.pinv(A))
    np.testing.assert_allclose(leverage_scores(jnp.asarray(A)), want, atol=1e-12)
    np.testing.assert_allclose(np.sum(want), 3, atol=1e-12)


def matrix_case():
    keys = jax.random.split(jax.random.key(1), 3)
    A1, A2 = jax.random.normal(keys[0], (20, 2)), jax.random.normal(keys[1], (15, 2))
    B = jax.nn.softmax(jax.random.normal(keys[2], (20, 15)), axis=-1)
    return AttentionObjective(AttentionRegression(A1, A2, B, weight=1.0)), jnp.array([[0.3, -0.2], [0.1, 0.4]])


def single_case():
    keys = jax.random.split(jax.random.key(2), 2)
    A, b = jax.random.normal(keys[0], (200, 3)), jax.nn.softmax(jax.random.normal(keys[1], (200,)))
    return AttentionObjective(SoftmaxRegression(A, b, weight=1.0)), jnp.array([[0.3, -0.2, 0.5]])


def one_layer_case():
    keys = jax.random.split(jax.random.key(3), 6)
    A1, A2, A3, B = (jax.random.normal(k, (24, 2)) for k in keys[:4])
    X, Y = (0.3 * jax.random.normal(k, (2, 2)) for k in keys[4:])
    problem = OneLayerRegression(A1, A2, A3, B, weight=0.7, ridge=0.1, ridge_y=0.1, value_weight=0.5)
    return OneLayerObjective(problem), Unknowns(X, Y)


CASES = {
    "matrix": (matrix_case, sampled_hessian, 100),
    "single": (single_case, sampled_hessian, 100),
    "one_layer": (one_layer_case, sampled_joint_hessian, 12),
}


@pytest.mark.parametrize("name", CASES)
def test_sampled_hessian_is_unbiased_and_its_error_falls_with_samples(name):
    build, sampler, samples = CASES[name]
    objective, params = build()
    exact = np.asarray(objective.hessian(params))

    @functools.partial(jax.jit, static_argnums=1)
    def draws(key, samples):
        one = functools.partial(sampler, objective=objective, samples=samples)
        return jax.lax.map(lambda k: _call(one, k, params), jax.random.split(key, 200), batch_size=20)

    few, many = (np.asarray(draws(jax.random.key(s), s)) for s in (samples, 16 * samples))
    spread = few.std(axis=0) / np.sqrt(len(few))
    assert np.all(np.abs(few.mean(axis=0) - exact) <= 5.5 * spread + 1e-12 * np.abs(exact).max())
    errors = [np.median([spectral_error(jnp.asarray(h), jnp.asarray(exact)) for h in sample[:40]])
              for sample in (few, many)]  # fmt: skip
    # Sixteen times the samples: at most a quarter of the error, within the noise of 40 draws; stratified draws gain
    # more.
    assert errors[0] / errors[1] > 2.5


def _call(sampler, key, params):
    objective = sampler.keywords["objective"]
    return sampler.func(key, objective, params, samples=sampler.keywords["samples"])


def test_spectral_error_of_a_scaled_matrix_is_the_scale():
    H = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(spectral_error(1.25 * H, H), 0.25, rtol=1e-12)
