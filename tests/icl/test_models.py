"""Models against an all-tokens NumPy transformer with separate projections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.icl import models
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import TaskConfig, sample
from attnreg.icl.tokens import TokenConfig, carried
from tests.icl import oracles

TASK = TaskConfig(problem="linear", dimension=4, length=7, queries=3, dtype="float64")


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
    y = np.asarray(carried(config.tokens.targets, document.targets))
    return oracles.transformer(np.asarray(document.context), y, np.asarray(document.queries), layers, config.attention)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float64", {"attention": ("linear",)}),
        ("float32", {"attention": ("softmax",), "heads": 2}),
        ("float64", {"attention": ("softmax", "linear", "softmax"), "heads": 2}),
        ("float32", {"attention": ("linear",) * 3, "shared": True}),
        ("float64", {"attention": ("softmax", "linear"), "tokens": TokenConfig(targets="simplex"), "key_size": 9}),
    ],
)
def test_equal_to_all_tokens_with_separate_projections(key, dtype, options):
    config = ModelConfig(parametrisation="factored", init_scale=0.4, **options)
    task = TaskConfig(problem="linear", dimension=4, length=7, queries=3, dtype=dtype)
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


def test_mix_gate_goes_from_linear_to_softmax(key):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("mix",), init_scale=0.5)
    weights = models.init(key, config, 4, "float64")
    for gate, kind in ((-40.0, "linear"), (40.0, "softmax")):
        mixed = logits(weights | {"gate": jnp.full((1, 1), gate)}, config, document)
        pure = logits(weights, ModelConfig(attention=(kind,)), document)
        np.testing.assert_allclose(mixed, pure, atol=1e-12)


@pytest.mark.parametrize("options", [{"mlp": 6}, {"layer_norm": True}, {"mlp": 6, "layer_norm": True}])
def test_options_keep_queries_independent_and_context_permutable(key, options):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("linear", "softmax"), init_scale=0.4, **options)
    weights = models.init(key, config, 4, "float64")
    whole = logits(weights, config, document)
    single = document._replace(queries=document.queries[1:2])
    np.testing.assert_allclose(logits(weights, config, single), whole[1:2], atol=1e-13)
    turned = document._replace(context=document.context[::-1], targets=document.targets[::-1])
    np.testing.assert_allclose(logits(weights, config, turned), whole, atol=1e-13)
    plain = ModelConfig(attention=("linear", "softmax"))
    bare = {k: v for k, v in weights.items() if not k.startswith("mlp")}
    assert abs(logits(bare, plain, document) - whole).max() > 1e-6


def test_sensitivities_are_the_gradients(key):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("softmax", "softmax"), init_scale=0.4)
    weights = models.init(key, config, 4, "float64")
    found = np.asarray(jax.jit(lambda w, d: models.sensitivities(w, config, d))(weights, document))
    for q, k in ((0, 0), (2, 3)):
        bump = jnp.zeros((3, 4)).at[q, k].set(1e-6)
        up, down = (logits(weights, config, document, document.queries + s * bump) for s in (1, -1))
        np.testing.assert_allclose(found[q, k], (up - down)[q] / 2e-6, atol=1e-8)


def test_alternating_tokens_have_two_per_pair(key):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("softmax", "linear"), tokens=TokenConfig(layout="alternating", code=6, scratch=2))
    weights = models.init(key, config, 4, "float64")
    assert weights["KQ"].shape == (2, 1, 13, 13)
    assert logits(weights, config, document).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ()}, "attention"),
        ({"attention": ("hyena",)}, "attention"),
        ({"attention": ("linear", "softmax"), "shared": True}, "shared"),
        ({"attention": ("linear",), "parametrisation": "low_rank"}, "parametrisation"),
        ({"attention": ("linear",), "heads": 0}, "heads"),
    ],
)
def test_bad_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


@pytest.mark.parametrize("options", [{"layout": "woven"}, {"code": 4}, {"layout": "alternating"}, {"targets": "log"}])
def test_bad_tokens_are_refused(options):
    with pytest.raises(ValueError, match=r"must be"):
        TokenConfig(**options)
