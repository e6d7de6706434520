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
from attnreg.icl.tokens import TokenConfig, tokenise
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
        names = ("Q", "K", "P", "V", *(name for name in w if name == "gate"))
        layers.append([tuple(w[name][l, h] for name in names) for h in range(config.heads)])
    y, read, ask = (np.asarray(leaf) for leaf in (document.targets, document.context, document.queries))
    y = y if config.tokens.targets == "plain" else len(y) * y - 1
    mlps = [(w["mlp_in"][l], w["mlp_out"][l]) for l in range(config.layers)] if config.mlp else None
    return oracles.transformer(read, y, ask, layers, config.attention, mlps=mlps, normalised=config.layer_norm)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float64", {"attention": ("linear",)}),
        ("float32", {"attention": ("softmax",), "heads": 2}),
        ("float64", {"attention": ("softmax", "linear", "softmax"), "heads": 2}),
        ("float32", {"attention": ("linear",) * 3, "shared": True}),
        ("float64", {"attention": ("softmax", "linear"), "tokens": TokenConfig(targets="simplex")}),
        ("float64", {"attention": ("mix", "softmax"), "heads": 2}),
        ("float64", {"attention": ("linear", "softmax"), "mlp": 6, "layer_norm": True}),
        ("float32", {"attention": ("mix",), "mlp": 6}),
    ],
)
def test_equal_to_all_tokens_with_separate_projections(key, dtype, options):
    config = ModelConfig(parametrisation="factored", init_scale=0.4, **options)
    task = TaskConfig(kind="linear", dimension=4, length=7, queries=3, dtype=dtype)
    document = first(sample(key, task, 1))
    weights = models.init(jax.random.key(1), config, 4, dtype)
    if "gate" in weights:  # one a layer and head, and not all halves
        weights["gate"] += jnp.linspace(-1, 2, weights["gate"].size, dtype=dtype).reshape(weights["gate"].shape)
    found = logits(weights, config, document)
    assert found.dtype == dtype
    wide = jax.tree.map(lambda leaf: leaf.astype("float64"), (weights, document))
    expected = oracle(wide[0], config, wide[1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=200 * jnp.finfo(dtype).eps * max(1, abs(expected).max()))
    merged = weights | models.merge(weights)._asdict()
    again = logits(merged, config, document)
    np.testing.assert_allclose(again, found, rtol=0, atol=200 * jnp.finfo(dtype).eps * max(1, abs(expected).max()))


def test_a_mix_gate_goes_from_linear_to_softmax(key):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("mix",), init_scale=0.5)
    weights = models.init(key, config, 4, "float64")
    assert weights["gate"].tolist() == [[0.0]]
    for gate, kind in ((-40.0, "linear"), (40.0, "softmax")):
        mixed = logits(weights | {"gate": jnp.full((1, 1), gate)}, config, document)
        pure = logits(weights, ModelConfig(attention=(kind,)), document)
        np.testing.assert_allclose(mixed, pure, atol=1e-12)


def test_alternating_tokens_have_two_per_pair(key):
    document = first(sample(key, TASK, 1))
    tokens = TokenConfig(layout="alternating", code=6, scratch=2)
    read, ask = (np.asarray(leaf) for leaf in tokenise(tokens, document.context, document.targets, document.queries))
    assert tokens.width(4) == 13
    assert (read.shape, ask.shape) == ((14, 13), (3, 13))
    np.testing.assert_array_equal(read[0::2, :5], np.concatenate([document.context, np.zeros((7, 1))], axis=1))
    np.testing.assert_array_equal(read[1::2, :5], np.concatenate([np.zeros((7, 4)), document.targets[:, None]], axis=1))
    np.testing.assert_array_equal(read[0::2, 5:11], read[1::2, 5:11])
    inner = read[::2, 5:11] @ read[::2, 5:11].T
    gaps = np.arange(7)[:, None] - np.arange(7)
    np.testing.assert_allclose(inner, np.mean([np.cos(2 * np.pi * k * gaps / 7) for k in (1, 2, 3)], 0), atol=1e-14)
    assert not read[:, 11:].any()
    assert not ask[:, 4:].any()


@pytest.mark.parametrize("options", [{}, {"mlp": 6, "layer_norm": True}])
def test_queries_are_independent_and_the_context_is_permutable(key, options):
    document = first(sample(key, TASK, 1))
    config = ModelConfig(attention=("linear", "softmax"), init_scale=0.4, **options)
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


@pytest.mark.parametrize("parametrisation", models.PARAMETRISATIONS)
def test_value_paths_start_definite_with_signs_in_turn(key, parametrisation):
    """NumPy's eigenvalues of PV: all of one sign a head, the first head's as asked; small ones where it is random."""
    for start, first_sign in (("away", 1), ("to", -1)):
        config = ModelConfig(attention=("softmax",) * 2, heads=3, parametrisation=parametrisation, start=start)
        weights = models.init(key, config, 9, "float64")
        values = np.linalg.eigvalsh(np.asarray(models.merge(weights).PV))  # symmetric, (2, 3, 10)
        signs = first_sign * np.array([1, -1, 1])
        assert (values * signs[:, None] > 0).all()
        np.testing.assert_allclose(abs(values).mean(), 2.0, rtol=0.2)  # the mean trace of Wishart matrices over D
        keys = weights["KQ" if parametrisation == "merged" else "K"]
        np.testing.assert_allclose(np.std(keys), config.init_scale, rtol=0.15)
    small = models.init(
        key, ModelConfig(attention=("softmax",), parametrisation=parametrisation, start="random"), 9, "float64"
    )
    assert max(float(jnp.std(leaf)) for leaf in small.values()) < 0.07


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
        ({"attention": ("linear",), "start": "both"}, "start is 'both'"),
        ({"attention": ("linear",), "init_scale": 0.0}, "init_scale is 0.0; it must be above 0"),
        ({"attention": ("linear",), "mlp": -1}, "mlp is -1; it must be at least 0"),
        ({"attention": ("linear",), "layer_norm": "yes"}, "layer_norm is 'yes'"),
        ({"attention": ("linear",), "tokens": "plain"}, "tokens is 'plain'; it must be a TokenConfig"),
    ],
)
def test_bad_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "log"}, "targets is 'log'"),
        ({"layout": "woven"}, "layout is 'woven'"),
        ({"code": 4}, "code is 4; it must be 0 for concatenated tokens"),
        ({"layout": "alternating"}, "code is 0; it must be even and positive for alternating tokens"),
        ({"layout": "alternating", "code": 3}, "code is 3"),
        ({"scratch": 1.0}, "scratch is 1.0, a float"),
    ],
)
def test_bad_tokens_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenConfig(**options)
