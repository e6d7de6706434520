"""Kernels between the gradient step and softmax attention: the formulas, their limit, their fit and their anatomy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import constructions, descent, kernels, models, tuning
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig
from tests.icl import oracles

SOFTMAX = TaskConfig(kind="softmax", dimension=4, length=9, queries=5, weight_scale=0.5, dtype="float64")
LINEAR = dataclasses.replace(SOFTMAX, kind="linear")
MODEL = ModelConfig(attention=("softmax",), tokens=TokenConfig(targets="simplex"))


def step_of(batch, eta):
    return jax.jit(jax.vmap(lambda d: descent.gradient_descent(SOFTMAX, d, jnp.array([eta]))))(batch)


@pytest.mark.parametrize("name", list(kernels.KERNELS))
@pytest.mark.parametrize("beta", [-0.7, 0.4])
def test_kernels_are_their_formulas(key, name, beta):
    for task, model in ((SOFTMAX, MODEL), (LINEAR, ModelConfig(attention=("softmax",)))):
        document = jax.tree.map(lambda leaf: leaf[0], sample(key, task, 1))
        found = jax.jit(lambda d, m=model: kernels.kernel_logits(name, beta, 1.3, m, d))(document)
        y = np.asarray(document.targets)
        y = y if task.kind == "linear" else 9 * y - 1
        expected = oracles.kernel_logits(name, beta, 1.3, np.asarray(document.context), y, np.asarray(document.queries))
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * 2.3e-16 * max(1, abs(expected).max()))


def test_unknown_kernels_are_refused(key):
    document = jax.tree.map(lambda leaf: leaf[0], sample(key, SOFTMAX, 1))
    with pytest.raises(ValueError, match="kernel is 'cubic'"):
        kernels.kernel_logits("cubic", 1.0, 1.0, MODEL, document)


@pytest.mark.parametrize("name", list(kernels.KERNELS))
def test_kernels_tend_to_the_gradient_step_and_softmax_is_the_layer(key, name):
    document = jax.tree.map(lambda leaf: leaf[0], sample(key, SOFTMAX, 1))
    gain = constructions.gain(SOFTMAX, 3.0)
    step = document.queries @ descent.gradient_descent(SOFTMAX, document, jnp.array([3.0]))
    answer = jax.jit(lambda beta: kernels.kernel_logits(name, beta, gain, MODEL, document))
    for beta in (1e-5, -1e-5):
        np.testing.assert_allclose(answer(beta), step, atol=1e-3)
    heads = {"softmax": 1, "softmax, two heads": 2}.get(name)
    if heads:
        weights = constructions.softmax_step(gain, 0.7, 4, heads=heads, dtype="float64")
        layer = models.logits(weights, dataclasses.replace(MODEL, heads=heads), document)
        np.testing.assert_allclose(answer(0.7), layer, atol=1e-12)


@pytest.mark.slow
def test_fit_finds_a_planted_kernel(key):
    batch = sample(key, SOFTMAX, 32)
    planted = jax.vmap(lambda d: kernels.kernel_logits("softmax", -0.4, 0.8, MODEL, d))(batch)
    batch = batch._replace(answers=jax.nn.softmax(planted, axis=-1))
    fits = jax.jit(lambda d: kernels.fit_kernels(SOFTMAX, MODEL, d, gain=0.5))(batch)
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


def test_the_best_loss_falls_from_attending_to_through_the_step_to_attending_away(key):
    """docs/theory/icl.md, section 7: the branch β > 0 has no minimum but the step, its end at β = 0."""
    task = TaskConfig(kind="softmax", dimension=10, length=20, queries=20, weight_scale=0.1**0.5, dtype="float64")
    batch = sample(key, task, 100)

    @jax.jit
    def loss(beta, gain):
        found = jax.vmap(lambda document: kernels.kernel_logits("softmax", beta, gain, MODEL, document))(batch)
        return tuning.mean_loss(task, batch, found)

    gains = np.geomspace(0.1, 1.5, 25)
    best = [min(float(loss(beta, gain)) for gain in gains) for beta in (0.3, 0.1, 0.03, 0.003, -0.003, -0.03, -0.1)]
    assert (np.diff(best) < 0).all()
