"""Metrics: exact on constructions, blind to what functions do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import constructions, descent, metrics, models
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig

SOFTMAX = TaskConfig(kind="softmax", dimension=4, length=9, queries=5, weight_scale=0.5, dtype="float64")
LINEAR = TaskConfig(kind="linear", dimension=4, length=9, queries=5, dtype="float64")


def step_of(batch, eta):
    return jax.jit(jax.vmap(lambda d: descent.gradient_descent(SOFTMAX, d, jnp.array([eta]))))(batch)


def test_construction_has_zero_differences_and_unit_cosine(key):
    batch, eta = sample(key, SOFTMAX, 8), 3.0
    weights = constructions.linear_descent(jnp.array([constructions.gain(SOFTMAX, eta)]), 4, dtype="float64")
    config = ModelConfig(attention=("linear",), tokens=TokenConfig(targets="simplex"))
    logits, slopes = jax.jit(lambda w, d: models.answer(w, config, d, block=4))(weights, batch)
    w = step_of(batch, eta)
    reference = jnp.einsum("bmd,bd->bm", batch.queries, w), jnp.broadcast_to(w[:, None, :], slopes.shape)
    found = metrics.compare(SOFTMAX, logits, slopes, *reference)
    np.testing.assert_allclose(found["prediction_difference"], 0, atol=1e-14)
    np.testing.assert_allclose(found["sensitivity_difference"], 0, atol=1e-13)
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-13)
    doubled = metrics.compare(SOFTMAX, 2 * logits, 2 * slopes, *reference)
    np.testing.assert_allclose(doubled["cosine"], 1, atol=1e-13)
    np.testing.assert_allclose(doubled["sensitivity_difference"], jnp.linalg.norm(w, axis=-1).mean(), rtol=1e-12)


def test_losses_are_the_stated_ones():
    logits, answers = jnp.array([0.0, np.log(3.0)]), jnp.array([0.5, 0.5])
    np.testing.assert_allclose(metrics.document_loss(SOFTMAX, logits, answers), 2 * 2 * 0.25**2)
    np.testing.assert_allclose(metrics.document_loss(LINEAR, jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])), 2.5)


@pytest.mark.parametrize("depth", [1, 3])
def test_weight_distance_sees_the_function_only(key, depth):
    gains = jnp.full(depth, 2.0)
    target = models.merge(constructions.linear_descent(gains, 4, dtype="float64"))
    scaled = target._replace(KQ=-3 * target.KQ, PV=target.PV / -3)
    assert metrics.weight_distance(scaled, target) < 1e-7
    split = models.Attention(
        jnp.concatenate([target.KQ, target.KQ], 1),
        jnp.concatenate([0.25 * target.PV, 0.75 * target.PV], 1),
    )
    assert metrics.weight_distance(split, target) < 1e-7
    zero = target._replace(PV=jnp.zeros_like(target.PV))
    np.testing.assert_allclose(metrics.weight_distance(zero, target), 1)
    noise = target._replace(KQ=target.KQ + 0.1 * jax.random.normal(key, target.KQ.shape))
    dense = [jnp.einsum("lhij,lhkm->lijkm", a.KQ, a.PV) for a in (noise, target)]
    if depth == 1:  # the answer reads the rows of M of the features and the target row of PV
        dense = [d[:, :4, :, 4:, :] for d in dense]
    expected = jnp.mean(
        jnp.linalg.norm((dense[0] - dense[1]).reshape(depth, -1), axis=1)
        / jnp.linalg.norm(dense[1].reshape(depth, -1), axis=1)
    )
    np.testing.assert_allclose(metrics.weight_distance(noise, target), expected, rtol=1e-10)


def test_interpolation_of_a_rescaled_construction_is_the_construction(key):
    batch, gains = sample(key, LINEAR, 3), jnp.array([2.0, 1.5])
    config = ModelConfig(attention=("linear", "linear"))
    weights = constructions.linear_descent(gains, 4, dtype="float64")
    scaled = models.merge({"KQ": -0.2 * weights["KQ"], "PV": weights["PV"] / -0.2})
    mixed = metrics.interpolate(scaled, models.merge(weights))
    answer = jax.jit(lambda w: models.answer(w, config, batch)[0])
    np.testing.assert_allclose(answer(mixed), answer(weights), atol=1e-12)
    two = models.merge(constructions.softmax_step(1.0, 0.5, 4, heads=2))
    with pytest.raises(ValueError, match="one head"):
        metrics.interpolate(two, models.merge(weights))


def test_plateau_end():
    assert metrics.plateau_end([0, 5], [1.0, 0.9], 1.0, 0.5) is None
