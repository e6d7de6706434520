"""The true factors: what they make of a layer's inputs is what the layer computes, with the biases folded or apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.models import layer_factors, layer_weights, load_model, trace_layer
from attnreg.data.models.factors import norm_ones
from attnreg.problems.checks import ProblemError
from tests.data.models import decoder_oracle, tiny
from tests.data.models.test_forward import IDS, MODELS, close

EPS = np.finfo(np.float64).eps


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        name: load_model(tiny.write(tmp_path_factory.mktemp(name), *made), dtype=np.float64)
        for name, made in MODELS.items()
    }


def softmax(logits, causal):
    logits = np.where(np.tri(len(logits), dtype=bool) | (not causal), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def turned(model, x):
    return decoder_oracle.turn(x, model.config.rotary_base) if model.config.rotary_frequencies else x


@pytest.mark.parametrize("name", MODELS)
def test_factors_make_the_layer(models, name):
    """Biases apart, keys and values once a group."""
    model, config = models[name], models[name].config
    f, trace = layer_factors(model, 1), trace_layer(model, IDS, 1)
    A = np.asarray(trace.inputs)
    assert f.Q.shape == (config.heads, config.width, config.head_width)
    assert f.K.shape == f.V.shape == (config.groups, config.width, config.head_width)
    total = np.zeros_like(trace.output)
    for h in range(config.heads):
        j = h // config.shared
        q, k, v = (
            A @ W + (0 if b is None else b[i])
            for W, b, i in ((f.Q[h], f.q_bias, h), (f.K[j], f.k_bias, j), (f.V[j], f.v_bias, j))
        )
        maps = softmax(turned(model, q) @ turned(model, k).T, config.causal)
        close(maps, trace.maps[h], 1000 * EPS)
        total = total + maps @ v @ f.O[h]
    close(total + (0 if f.o_bias is None else f.o_bias), trace.output, 1000 * EPS)


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("bert", "auto"),
        ("gpt2", "norm"),
        ("gpt2", "column"),
        ("llama", "auto"),
        ("llama", "column"),
        ("qwen2", "column"),
    ],
)
def test_folded_weights_make_the_heads_without_biases(models, name, fold):
    model = models[name]
    weights, trace = layer_weights(model, 1, fold=fold), trace_layer(model, IDS, 1)
    A = np.asarray(trace.inputs)
    if fold == "column":
        A = np.concatenate([A, np.ones((len(A), 1))], axis=1)
    for h in range(model.config.heads):
        q, k = (turned(model, A @ W[h]) for W in (weights.Q, weights.K))
        maps = softmax(q @ k.T, model.config.causal)
        close(maps, trace.maps[h], 1e4 * EPS)
        close(maps @ (A @ weights.V[h]), trace.heads[h], 1e4 * EPS)
    assert weights.O.shape == (model.config.heads, model.config.head_width, model.config.width)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_inputs_of_a_layer_norm_have_a_constant_direction(models, name, layer):
    A, u = np.asarray(trace_layer(models[name], IDS, layer).inputs), norm_ones(models[name], layer)
    assert np.abs(A @ u - 1).max() <= 100 * EPS * (np.abs(A) @ np.abs(u)).max()


def test_biases_behind_an_rms_norm_are_not_folded_in_silence(models):
    with pytest.raises(ProblemError, match=r"fold: the biases of a llama .*fold='column'.*layer_factors"):
        layer_weights(models["qwen2"], 0)
    with pytest.raises(ProblemError, match=r"fold is 'ones'; it must be one of 'auto', 'norm', 'column'"):
        layer_weights(models["llama"], 0, fold="ones")
    with pytest.raises(ProblemError, match="layer is 2; it must be at least 0 and at most 1"):
        layer_factors(models["llama"], 2)


def test_a_norm_without_the_direction_is_named(models):
    model = models["gpt2"]
    layers = model.parameters.layers
    flat = layers[0].attention_norm._replace(beta=jnp.zeros(tiny.D))
    damaged = type(model)(
        model.config, model.parameters._replace(layers=(layers[0]._replace(attention_norm=flat), layers[1]))
    )
    with pytest.raises(ProblemError, match="shifts that cancel: pass fold='column'"):
        layer_weights(damaged, 0)
