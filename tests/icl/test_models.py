"""Models against an all-tokens NumPy transformer with separate projections."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import models
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from tests.icl import oracles

TASK = TaskConfig(kind="linear", dimension=4, length=7, queries=3, dtype="float64")


@functools.partial(jax.jit, static_argnums=1)
def logits(weights, config, document, queries=None):
    return models.logits(weights, config, document, queries)


def first(documents):
    return jax.tree.map(lambda leaf: leaf[0], documents)


def oracle(weights, config, document):
    w = jax.tree.map(np.asarray, weights)
    layers = []
    for depth in range(config.depth):
        l = 0 if config.shared else depth
        layers.append([tuple(w[name][l, h] for name in "QKPV") for h in range(config.heads)])
    y = np.asarray(models.carried(config, document.targets))
    return oracles.transformer(np.asarray(document.context), y, np.asarray(document.queries), layers, config.attention)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float64", {"attention": ("linear",)}),
        ("float32", {"attention": ("softmax",), "heads": 2}),
        ("float64", {"attention": ("softmax", "linear", "softmax"), "heads": 2}),
        ("float32", {"attention": ("linear",) * 3, "shared": True}),
        ("float64", {"attention": ("softmax", "linear"), "targets": "simplex"}),
    ],
)
def test_equal_to_all_tokens_with_separate_projections(key, dtype, options):
    config = ModelConfig(parametrisation="factored", init_scale=0.4, **options)
    task = TaskConfig(kind="linear", dimension=4, length=7, queries=3, dtype=dtype)
    document = first(sample(key, task, 1))
    weights = models.init(jax.random.key(1), config, 4, dtype)
    found = logits(weights, config, document)
    assert found.dtype == dtype
    wide = jax.tree.map(lambda leaf: leaf.astype("float64"), (weights, document))
    expected = oracle(wide[0], config, wide[1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=200 * jnp.finfo(dtype).eps * max(1, abs(expected).max()))
    merged = dict(zip(("KQ", "PV"), models.merge(weights)[:2], strict=True))
    again = logits(merged, config, document)
    np.testing.assert_allclose(again, found, rtol=0, atol=200 * jnp.finfo(dtype).eps * max(1, abs(expected).max()))


def test_queries_are_independent_and_the_context_is_permutable(key):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("linear", "softmax"), init_scale=0.4)
    weights = models.init(key, config, 4, "float64")
    whole = logits(weights, config, document)
    single = document._replace(queries=document.queries[1:2])
    np.testing.assert_allclose(logits(weights, config, single), whole[1:2], atol=1e-13)
    turned = document._replace(context=document.context[::-1], targets=document.targets[::-1])
    np.testing.assert_allclose(logits(weights, config, turned), whole, atol=1e-13)


def test_sensitivities_are_the_gradients(key):
    batch = sample(key, TASK, 5)
    document = first(batch)
    config = ModelConfig(attention=("softmax", "softmax"), init_scale=0.4)
    weights = models.init(key, config, 4, "float64")
    whole, slopes = jax.jit(lambda w, d: models.answer(w, config, d))(weights, batch)
    chex.assert_shape((whole, slopes), [(5, 3), (5, 3, 4)])
    blocked = jax.jit(lambda w, d: models.answer(w, config, d, block=2))(weights, batch)
    chex.assert_trees_all_close(blocked, (whole, slopes), atol=1e-13)
    found = np.asarray(slopes[0])
    for q, k in ((0, 0), (2, 3)):
        bump = jnp.zeros((3, 4)).at[q, k].set(1e-6)
        up, down = (logits(weights, config, document, document.queries + s * bump) for s in (1, -1))
        np.testing.assert_allclose(found[q, k], (up - down)[q] / 2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ()}, "attention is \\(\\)"),
        ({"attention": "linear"}, "attention is 'linear'; it must be a tuple"),
        ({"attention": ("hyena",)}, "attention of a layer is 'hyena'"),
        ({"attention": ("linear", "softmax"), "shared": True}, "shared"),
        ({"attention": ("linear",), "shared": 1}, "shared is 1, a int"),
        ({"attention": ("linear",), "parametrisation": "low_rank"}, "parametrisation"),
        ({"attention": ("linear",), "heads": 0}, "heads is 0; it must be at least 1"),
        ({"attention": ("linear",), "init_scale": 0.0}, "init_scale is 0.0; it must be above 0"),
        ({"attention": ("linear",), "targets": "log"}, "targets is 'log'"),
    ],
)
def test_bad_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
