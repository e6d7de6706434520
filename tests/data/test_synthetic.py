"""Synthetic instances: seeded, realizable where they say so, with the conditioning, rank and logit scale asked for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data import synthetic
from attnreg.objectives.attention import AttentionObjective

KEY = jax.random.key(7)
DOUBLE = dict(dtype=jnp.float64)
# Compiled once per structure; drawing eagerly would compile every operation for every shape.
SIZES = ("n", "d", "m", "d2", "documents", "loss", "rank", "weight", "dtype")
attention_instance = jax.jit(synthetic.attention_instance, static_argnames=SIZES)
vector_instance = jax.jit(synthetic.vector_instance, static_argnames=("n", "d", "loss", "dtype"))
conditioned = jax.jit(synthetic.conditioned, static_argnums=(1, 2, 4))
# The sizes most tests share, hence one program.
ONE = dict(n=6, m=5, d=3, d2=2, documents=2, loss="normalized", **DOUBLE)
EPS = float(np.finfo(np.float64).eps)


@jax.jit
def value(instance):
    return AttentionObjective(instance.problem).value(instance.truth)


@pytest.mark.parametrize("loss", ["normalized", "linear"])
def test_without_noise_the_truth_has_no_loss(loss):
    instance = attention_instance(KEY, **(ONE | dict(loss=loss)), noise=0.0)
    size = float(np.sum(np.abs(instance.problem.B)))
    assert float(value(instance)) <= (1e3 * EPS) ** 2 * size**2


def test_the_key_decides_everything():
    one, same = (attention_instance(KEY, **ONE, noise=0.1) for _ in range(2))
    other = attention_instance(jax.random.key(8), **ONE, noise=0.1)
    chex.assert_trees_all_equal(one, same)
    assert not np.array_equal(one.problem.B, other.problem.B)
    # The noise is drawn from its own stream: the data below it stay.
    clean = attention_instance(KEY, **ONE, noise=0.0)
    np.testing.assert_array_equal(one.problem.A1, clean.problem.A1)


def test_noise_has_the_size_asked_for():
    noisy, clean = (attention_instance(KEY, **ONE, noise=noise).problem for noise in (0.1, 0.0))
    ratio = np.std(noisy.B - clean.B) / np.sqrt(np.mean(np.asarray(clean.B) ** 2))
    assert ratio == pytest.approx(0.1, rel=0.3)  # a sample of 60


def test_rank_and_logit_scale():
    instance = attention_instance(KEY, n=6, d=3, rank=1, logit_scale=1.0, **DOUBLE)
    assert np.linalg.matrix_rank(instance.truth) == 1
    louder = attention_instance(KEY, n=6, d=3, rank=1, logit_scale=5.0, **DOUBLE)
    np.testing.assert_allclose(louder.truth, 5 * instance.truth, rtol=4 * EPS)


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_conditioning_and_row_norms(condition):
    rows = np.asarray(conditioned(KEY, 20_000, 4, condition, jnp.float64))
    singular = np.linalg.svd(rows, compute_uv=False)
    assert singular[0] / singular[-1] == pytest.approx(condition, rel=0.1)
    assert np.mean(np.sum(rows**2, axis=1)) == pytest.approx(1.0, rel=0.05)


def test_shapes_dtype_and_options_reach_the_problem():
    problem = attention_instance(KEY, n=6, m=5, d=3, d2=2, documents=2, ridge=0.5, weight=0.25).problem
    assert problem.sizes == (2, 6, 5, 3, 2)
    assert problem.dtype == np.float32
    assert float(problem.ridge) == 0.5
    assert float(problem.weight[0, 0, 0]) == 0.25


@pytest.mark.parametrize("loss", ["rescaled", "linear"])
def test_vector_instances(loss):
    instance = vector_instance(KEY, n=30, d=3, loss=loss, **DOUBLE)
    assert instance.problem.sizes == (1, 1, 30, 1, 3)
    assert instance.truth.shape == (1, 3)
    assert float(value(instance)) <= (1e3 * EPS) ** 2 * float(np.sum(np.abs(instance.problem.B))) ** 2


def test_a_layer_instance_is_its_formula_and_the_noise_is_as_asked():
    quiet, noisy = (synthetic.layer_instance(KEY, n=400, d=3, noise=noise) for noise in (0.0, 0.1))
    chex.assert_trees_all_equal(quiet[:3], noisy[:3])
    A1, A2, A3, B = map(np.asarray, quiet)
    X, Y = (np.asarray(jax.random.normal(key, (3, 3))) for key in jax.random.split(KEY, 6)[3:5])
    u = np.exp(A1 @ X @ A2.T)
    np.testing.assert_allclose(B, u / u.sum(1, keepdims=True) @ A3 @ Y, rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(np.mean(A1**2) * 3, 1, atol=0.2)
    added = np.asarray(noisy.B - quiet.B)
    np.testing.assert_allclose(np.sqrt(np.mean(added**2) / np.mean(np.square(quiet.B))), 0.1, atol=0.01)
    with pytest.raises(ValueError, match="n is 0"):
        synthetic.layer_instance(KEY, n=0, d=3)
