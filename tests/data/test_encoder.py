"""The forward pass: against NumPy from the formulas, the published similarities, and itself (dtype, cost)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from attnreg.data.cache import cached_file
from attnreg.data.minilm.encoder import (
    CLS,
    EPSILON,
    HEADS,
    LAYERS,
    LONGEST,
    SEP,
    WIDTH,
    encode,
    load_minilm,
    read_safetensors,
)
from attnreg.data.minilm.texts import tokenize, windows
from tests.data import bert_oracle

EPS = np.finfo(np.float64).eps
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")


def published_names(encoder):
    """The encoder's parameters as arrays under the names of the published file."""
    tensors = {
        "embeddings.word_embeddings.weight": encoder.words,
        "embeddings.position_embeddings.weight": encoder.positions,
        "embeddings.token_type_embeddings.weight": jnp.zeros((2, WIDTH)),
    }

    def put(name, weight, bias):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias

    put("embeddings.LayerNorm", *encoder.norm)
    for i, layer in enumerate(encoder.layers):
        name = f"encoder.layer.{i}"
        for kind in ("query", "key", "value"):
            dense = getattr(layer, kind)
            put(f"{name}.attention.self.{kind}", dense.w.T, dense.b)
        put(f"{name}.attention.output.dense", layer.output.w.T, layer.output.b)
        put(f"{name}.attention.output.LayerNorm", *layer.attention_norm)
        put(f"{name}.intermediate.dense", layer.up.w.T, layer.up.b)
        put(f"{name}.output.dense", layer.down.w.T, layer.down.b)
        put(f"{name}.output.LayerNorm", *layer.output_norm)
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def assert_equal_to_oracle(trace, oracle, tolerance):
    hidden, maps, outputs = oracle
    for found, wanted in zip(trace.hidden, hidden, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    for attention, of_maps, of_heads in zip(trace.attention, maps, outputs, strict=True):
        np.testing.assert_allclose(attention.maps, of_maps, rtol=0, atol=tolerance)
        np.testing.assert_allclose(attention.heads, of_heads, rtol=0, atol=tolerance * np.abs(of_heads).max())


@pytest.mark.parametrize("n", [1, 2, 17])
def test_forward_is_the_formulas(random_encoder, n):
    ids = np.arange(n) * 7 % 64
    oracle = bert_oracle.forward(published_names(random_encoder), ids, layers=2)
    assert_equal_to_oracle(jax.jit(encode)(random_encoder, jnp.asarray(ids)), oracle, 500 * EPS)


def test_real_forward_is_the_formulas(encoder):
    ids = windows("docs", 24, 1)[0]
    tensors = read_safetensors(cached_file("model.safetensors"))
    trace = jax.jit(encode)(encoder, jnp.asarray(ids))
    assert_equal_to_oracle(trace, bert_oracle.forward(tensors, ids, layers=LAYERS), 1000 * EPS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_published_similarities(encoder, vocabulary, dtype):
    """The model card's cosines of three sentences: of the means of the last hidden states."""
    model = encoder if dtype == jnp.float64 else load_minilm(dtype=dtype)
    mean = jax.jit(lambda model, ids: jnp.mean(encode(model, ids).hidden[-1], axis=0))
    texts = [jnp.array([CLS, *tokenize(text, vocabulary), SEP]) for text in SENTENCES]
    vectors = np.stack([mean(model, ids) for ids in texts])
    assert vectors.dtype == dtype
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    np.testing.assert_allclose(similarities[np.triu_indices(3, 1)], [0.6660, 0.1046, 0.1411], rtol=0, atol=5e-5)


def test_float32_error(encoder):
    ids = jnp.asarray(windows("docs", 64, 1)[0])
    single = jax.jit(encode)(load_minilm(dtype=jnp.float32), ids)
    double = jax.jit(encode)(encoder, ids)
    for one, two in zip(single.hidden, double.hidden, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


def test_layers_can_be_cut_short(random_encoder):
    ids = jnp.arange(9)
    first, both = encode(random_encoder, ids, layers=1), encode(random_encoder, ids)
    assert len(first.hidden) == 2
    np.testing.assert_array_equal(first.hidden[1], both.hidden[1])


def test_cost_is_as_documented(random_encoder):
    n = 256
    compiled = jax.jit(lambda e, ids: encode(e, ids).hidden[-1]).lower(random_encoder, jnp.arange(n) % 64).compile()
    flops = compiled.cost_analysis()["flops"]
    assert flops == pytest.approx(2 * n * (3.54e6 + 1536 * n), rel=0.05)


def test_errors_name_the_argument(random_encoder):
    with pytest.raises(ValueError, match=r"ids has shape \(2, 3\)"):
        encode(random_encoder, jnp.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"ids has shape \(513,\).*512"):
        encode(random_encoder, jnp.zeros(LONGEST + 1, int))


def test_float64_needs_64_bit_mode(encoder):
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        load_minilm(dtype=jnp.float64)


def test_constants_are_the_configuration(vocabulary):
    config = json.loads(cached_file("config.json").read_text())
    assert config["hidden_act"] == "gelu"
    assert (config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"]) == (LAYERS, HEADS, WIDTH)
    assert (config["layer_norm_eps"], config["max_position_embeddings"]) == (EPSILON, LONGEST)


def test_reader_agrees_with_the_safetensors_package(encoder):
    reference = load_file(cached_file("model.safetensors"))
    found = read_safetensors(cached_file("model.safetensors"))
    assert set(reference) - set(found) == {"embeddings.position_ids"}
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, reference[name])
