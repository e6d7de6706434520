"""Forward passes of tiny models from folders: against NumPy from the formulas, padding, precision, compilations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.models import forward, load_model, passes, rotate, trace_layer, trace_layers
from attnreg.data.models.rotary import frequencies
from tests.data import bert_oracle
from tests.data.models import decoder_oracle, tiny

EPS = np.finfo(np.float64).eps
IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 22])
MODELS = {
    "bert": tiny.bert(),
    "gpt2": tiny.gpt2(),
    "llama": tiny.llama(),
    "mistral": tiny.llama("mistral", tied=True, sliding_window=11),
    "qwen2": tiny.llama("qwen2", biases=True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tiny.write(tmp_path_factory.mktemp(name), *made) for name, made in MODELS.items()}


def oracle(name, ids):
    """Hidden states, a dict of arrays per layer, and logits, of the formulas."""
    fields, tensors = MODELS[name]
    if name != "bert":
        return getattr(decoder_oracle, "gpt2" if name == "gpt2" else "llama")(fields, tensors, ids)
    bare = {key.removeprefix("bert."): value for key, value in tensors.items()}
    hidden, maps, heads = bert_oracle.forward(bare, ids, layers=tiny.LAYERS, heads=3)
    return hidden, [dict(inputs=h, maps=m, heads=o) for h, m, o in zip(hidden[:-1], maps, heads, strict=True)], None


def close(found, wanted, tolerance):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_computed_as_the_formulas_say(folders, name):
    model = load_model(folders[name], dtype=np.float64)
    done = forward(model, IDS)
    hidden, layers, logits = oracle(name, IDS)
    for found, wanted in zip((*done.hidden[:-1], done.final), hidden, strict=True):
        close(found, wanted, 1000 * EPS)
    if logits is not None:
        close(done.logits, logits, 1000 * EPS)
    for i, wanted in enumerate(layers):
        trace = trace_layer(model, IDS, i)
        for quantity, value in wanted.items():
            close(getattr(trace, quantity), value, 1000 * EPS)
        if not model.config.rotary_frequencies:
            np.testing.assert_array_equal(trace.q, trace.q_rotated)


def test_one_pass_gives_the_traces_of_all_layers(folders):
    model = load_model(folders["llama"], dtype=np.float64)
    found = list(trace_layers(model, IDS))
    assert len(found) == tiny.LAYERS
    for i, trace in enumerate(found):
        for one, other in zip(trace, trace_layer(model, IDS, i), strict=True):
            close(one, other, 100 * EPS)


def test_the_head_for_masked_words(folders):
    """BERT's logits, from its own last hidden states."""
    tensors = MODELS["bert"][1]
    w = {key.removeprefix("cls.predictions."): value.astype(np.float64) for key, value in tensors.items()}
    done = forward(load_model(folders["bert"], dtype=np.float64), IDS)
    z = np.asarray(done.final) @ w["transform.dense.weight"].T + w["transform.dense.bias"]
    z = bert_oracle._norm(w, "transform.LayerNorm", bert_oracle._gelu(z))
    close(done.logits, z @ w["bert.embeddings.word_embeddings.weight"].T + w["bias"], 1000 * EPS)


@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_padding_behind_the_text_changes_nothing(folders, name):
    model = load_model(folders[name], dtype=np.float64)
    text, mask = IDS[:7], np.arange(11) < 7
    padded = np.concatenate([text, [0, 0, 0, 0]])
    alone, done = forward(model, text), forward(model, padded, mask=mask)
    close(done.logits[:7], alone.logits, 100 * EPS)
    trace, short = trace_layer(model, padded, 1, mask=mask), trace_layer(model, text, 1)
    assert not np.any(trace.maps[:, :, 7:])
    close(trace.output[:7], short.output, 100 * EPS)
    assert np.all(np.isfinite(done.logits))


def test_float32_is_the_default(folders):
    single = forward(load_model(folders["llama"]), IDS)
    double = forward(load_model(folders["llama"], dtype=np.float64), IDS)
    assert single.logits.dtype == np.float32
    close(single.logits, double.logits, 1e-5)


def test_it_is_pure_and_goes_through_transformations(folders):
    model = load_model(folders["llama"], dtype=np.float64)
    texts = jnp.asarray(np.stack([IDS, IDS[::-1]]))
    logits = jax.jit(jax.vmap(lambda model, ids: forward(model, ids).logits, in_axes=(None, 0)))(model, texts)
    for found, ids in zip(logits, texts, strict=True):
        close(found, forward(model, ids).logits, 1000 * EPS)


def test_layers_share_one_program(folders, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(passes, "block", chex.assert_max_traces(passes.block, n=1))
    jax.clear_caches()
    assert len(forward(load_model(folders["gpt2"]), IDS[:5]).hidden) == tiny.LAYERS + 1


def test_layers_can_be_cut_short(folders):
    model = load_model(folders["gpt2"])
    done = forward(model, IDS, layers=1)
    assert done.logits is None
    np.testing.assert_array_equal(done.hidden[1], forward(model, IDS).hidden[1])


def test_rotate_is_a_turn_of_complex_numbers():
    x = np.random.default_rng(4).standard_normal((2, 9, 8))
    angles = frequencies(50.0, 6)
    halves = np.stack([decoder_oracle.turn(row[:, :6], 50.0) for row in x])
    close(rotate(jnp.asarray(x), angles)[..., :6], halves, 10 * EPS)
    np.testing.assert_array_equal(rotate(jnp.asarray(x), angles)[..., 6:], x[..., 6:])
    order = [0, 3, 1, 4, 2, 5]  # column i and i + 3 side by side
    neighbours = rotate(jnp.asarray(x[..., order]), angles, "interleaved")
    close(neighbours, halves[..., order], 10 * EPS)


def test_far_positions_keep_their_digits_in_float32():
    """Angles are made in float64: at position 8000 float32 would have lost four digits."""
    x = np.zeros((8001, 2), np.float32)
    x[:, 0] = 1
    cos, sin = np.asarray(rotate(jnp.asarray(x), (0.7,)))[-1]
    assert abs(cos - np.cos(8000 * 0.7)) < 1e-7
    assert abs(sin - np.sin(8000 * 0.7)) < 1e-7
