"""Metrics: exact on constructions, blind to what functions do not depend on; kernels and their anatomy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import constructions, descent, kernels, metrics, models
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig

SIMPLEX = TokenConfig(targets="simplex")
SOFTMAX = TaskConfig(problem="softmax", dimension=4, length=9, queries=5, weight_scale=0.5, dtype="float64")


def step_of(batch, eta):
    return jax.jit(jax.vmap(lambda d: descent.gradient_descent("softmax", d, jnp.array([eta]))))(batch)


def test_construction_has_zero_differences_and_unit_cosine(key):
    batch, eta = sample(key, SOFTMAX, 8), 3.0
    weights = constructions.linear_descent(
        jnp.array([constructions.gain("softmax", eta, 9)]), 4, tokens=SIMPLEX, dtype="float64"
    )
    config = ModelConfig(attention=("linear",), tokens=SIMPLEX)
    logits, slopes = jax.jit(lambda w, d: models.answer(w, config, d, block=4))(weights, batch)
    w = step_of(batch, eta)
    reference = jnp.einsum("bmd,bd->bm", batch.queries, w), jnp.broadcast_to(w[:, None, :], slopes.shape)
    found = metrics.compare("softmax", logits, slopes, *reference)
    np.testing.assert_allclose(found["prediction_difference"], 0, atol=1e-14)
    np.testing.assert_allclose(found["sensitivity_difference"], 0, atol=1e-13)
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-13)
    doubled = metrics.compare("softmax", 2 * logits, 2 * slopes, *reference)
    np.testing.assert_allclose(doubled["cosine"], 1, atol=1e-13)
    np.testing.assert_allclose(doubled["sensitivity_difference"], jnp.linalg.norm(w, axis=-1).mean(), rtol=1e-12)


def test_losses_are_the_stated_ones():
    logits, answers = jnp.array([0.0, np.log(3.0)]), jnp.array([0.5, 0.5])
    np.testing.assert_allclose(metrics.document_loss("softmax", logits, answers), 2 * 2 * 0.25**2)
    np.testing.assert_allclose(metrics.document_loss("linear", jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])), 2.5)


@pytest.mark.parametrize("depth", [1, 3])
def test_weight_distance_sees_the_function_only(key, depth):
    gains = jnp.full(depth, 2.0)
    target = models.merge(constructions.linear_descent(gains, 4, dtype="float64"))
    scaled = target._replace(KQ=-3 * target.KQ, PV=target.PV / -3)
    assert metrics.weight_distance(scaled, target, dimension=4) < 1e-7
    split = models.Attention(
        jnp.concatenate([target.KQ, target.KQ], 1),
        jnp.concatenate([0.25 * target.PV, 0.75 * target.PV], 1),
        target.gate,
    )
    assert metrics.weight_distance(split, target, dimension=4) < 1e-7
    zero = target._replace(PV=jnp.zeros_like(target.PV))
    np.testing.assert_allclose(metrics.weight_distance(zero, target, dimension=4), 1)
    noise = target._replace(KQ=target.KQ + 0.1 * jax.random.normal(key, target.KQ.shape))
    dense = [jnp.einsum("lhij,lhkm->lijkm", a.KQ, a.PV) for a in (noise, target)]
    if depth == 1:  # the answer reads the rows of M of the features and the target row of PV
        dense = [d[:, :4, :, 4:, :] for d in dense]
    expected = jnp.mean(
        jnp.linalg.norm((dense[0] - dense[1]).reshape(depth, -1), axis=1)
        / jnp.linalg.norm(dense[1].reshape(depth, -1), axis=1)
    )
    np.testing.assert_allclose(metrics.weight_distance(noise, target, dimension=4), expected, rtol=1e-10)


def test_interpolation_of_a_rescaled_construction_is_the_construction(key):
    task = TaskConfig(problem="linear", dimension=4, length=9, queries=5, dtype="float64")
    batch, gains = sample(key, task, 3), jnp.array([2.0, 1.5])
    config = ModelConfig(attention=("linear", "linear"))
    weights = constructions.linear_descent(gains, 4, dtype="float64")
    scaled = models.merge({"KQ": -0.2 * weights["KQ"], "PV": weights["PV"] / -0.2})
    mixed = metrics.interpolate(scaled, models.merge(weights), dimension=4)
    answer = jax.jit(lambda w: models.answer(w, config, batch)[0])
    np.testing.assert_allclose(answer(mixed), answer(weights), atol=1e-12)
    two = models.merge(constructions.softmax_step(1.0, 0.5, 4, heads=2))
    with pytest.raises(ValueError, match="one head"):
        metrics.interpolate(two, models.merge(weights), dimension=4)


def test_bootstrap_band_covers_and_ignores_dead_runs():
    curves = np.random.default_rng(0).normal(size=(40, 3)) + np.array([0, 1, 2])
    mean, low, high = metrics.bootstrap_band(curves)
    np.testing.assert_allclose(mean, curves.mean(0))
    np.testing.assert_allclose(high - low, 2 * 1.645 / 40**0.5, rtol=0.3)
    broken = curves.copy()
    broken[0, 1] = np.nan
    again = metrics.bootstrap_band(broken)
    np.testing.assert_allclose(again[0][1], curves[1:, 1].mean())
    assert np.isfinite(again[1]).all()
    assert np.isnan(metrics.bootstrap_band(np.full((3, 1), np.nan))[0]).all()


def test_plateau_end():
    assert metrics.plateau_end([0, 5], [1.0, 0.9], 1.0, 0.5) is None


@pytest.mark.parametrize("name", list(kernels.KERNELS))
def test_kernels_tend_to_the_gradient_step_and_softmax_is_the_layer(key, name):
    document = jax.tree.map(lambda leaf: leaf[0], sample(key, SOFTMAX, 1))
    gain = constructions.gain("softmax", 3.0, 9)
    step = document.queries @ descent.gradient_descent("softmax", document, jnp.array([3.0]))
    answer = jax.jit(lambda beta: kernels.kernel_logits(name, beta, gain, "simplex", document))
    for beta in (1e-5, -1e-5):
        np.testing.assert_allclose(answer(beta), step, atol=1e-3)
    heads = {"softmax": 1, "softmax, two heads": 2}.get(name)
    if heads:
        weights = constructions.softmax_step(gain, 0.7, 4, heads=heads, tokens=SIMPLEX, dtype="float64")
        layer = models.logits(weights, ModelConfig(attention=("softmax",), heads=heads, tokens=SIMPLEX), document)
        np.testing.assert_allclose(answer(0.7), layer, atol=1e-12)


@pytest.mark.slow
def test_fit_finds_a_planted_kernel(key):
    batch = sample(key, SOFTMAX, 32)
    planted = jax.vmap(lambda d: kernels.kernel_logits("softmax", -0.4, 0.8, "simplex", d))(batch)
    batch = batch._replace(answers=jax.nn.softmax(planted, axis=-1))
    fits = jax.jit(lambda d: kernels.fit_kernels("simplex", "softmax", d, gain=0.5))(batch)
    assert set(fits) == set(kernels.KERNELS)
    np.testing.assert_allclose([fits["softmax"].beta, fits["softmax"].gain], [-0.4, 0.8], rtol=1e-4)
    assert fits["softmax"].loss < 1e-10
    assert all(fit.loss > 1e-6 for name, fit in fits.items() if name != "softmax")


def test_anatomy_of_a_linear_and_of_a_curved_learner(key):
    batch = sample(key, SOFTMAX, 16)
    w = step_of(batch, 3.0)

    def linear(d):
        return jnp.einsum("bmd,bd->bm", d.queries, w), 1.5 * jnp.broadcast_to(w[:, None, :], d.queries.shape)

    def curved(d):  # l = z + z²/2 along the step: all variation along the step
        z = jnp.einsum("bmd,bd->bm", d.queries, w)
        return z + z**2 / 2, (1 + z)[..., None] * w[:, None, :]

    flat = jax.jit(lambda d, w: kernels.anatomy(linear, d, w))(batch, w)
    assert flat["even_part"] < 1e-25
    assert flat["curvature"] < 1e-25
    np.testing.assert_allclose(flat["cosine"], 1)
    bent = jax.jit(lambda d, w: kernels.anatomy(curved, d, w))(batch, w)
    np.testing.assert_allclose(bent["variation_along_step"], 1)
    np.testing.assert_allclose(bent["cosine_odd_part"], 1)
    assert 0 < bent["even_part"] < 1
    assert abs(sum(v for k, v in bent.items() if k.startswith("variation")) - 1) < 1e-12
