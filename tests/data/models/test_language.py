"""Perplexity and greedy text of a tiny model from the formulas, and the real ones where they are fetched."""

import numpy as np
import pytest

from attnreg.data.cache import SMOLLM2, ModelMissingError, cached_file
from attnreg.data.models import (
    continued,
    forward,
    layer_weights,
    load_model,
    load_tokenizer,
    next_token_losses,
    perplexity,
    trace_layer,
)
from attnreg.data.tools import look
from attnreg.problems.checks import ProblemError
from tests.data.models import decoder_oracle, tiny
from tests.data.models.test_forward import IDS, MODELS


@pytest.fixture(scope="module")
def smollm2():
    """The real model; a damaged copy is a failure, an absent one is not."""
    try:
        return load_model("smollm2")
    except ModelMissingError as missing:
        pytest.skip(str(missing))


def test_perplexity_and_greedy_text_are_the_formulas(tmp_path):
    model = load_model(tiny.write(tmp_path, *MODELS["gpt2"]), dtype=np.float64)
    logits = decoder_oracle.gpt2(*MODELS["gpt2"], IDS)[2]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = [-np.log(chances[i, IDS[i + 1]]) for i in range(len(IDS) - 1)]
    np.testing.assert_allclose(next_token_losses(forward(model, IDS).logits, IDS), losses, rtol=1e-10)
    assert perplexity(model, IDS) == pytest.approx(np.exp(np.mean(losses)), rel=1e-10)
    text = list(IDS)
    for _ in range(3):
        text.append(int(np.argmax(decoder_oracle.gpt2(*MODELS["gpt2"], np.array(text))[2][-1])))
    assert continued(model, IDS, 3).tolist() == text[-3:]


def test_what_predicts_nothing_is_named(tmp_path):
    model = load_model(tiny.write(tmp_path, *MODELS["bert"]))
    with pytest.raises(ProblemError, match="a bert reads in both directions"):
        perplexity(model, IDS)
    fields, tensors = tiny.llama()
    bare = {name.removeprefix("model."): x for name, x in tensors.items() if name != "lm_head.weight"}
    model = load_model(tiny.write(tmp_path / "bare", fields, bare))
    with pytest.raises(ProblemError, match=r"no logits: .* without lm_head"):
        continued(model, IDS, 1)
    with pytest.raises(ProblemError, match="ids has 1 tokens; a perplexity needs at least two"):
        perplexity(model, IDS[:1])


def test_minilm_by_name(encoder):
    """The same model as `attnreg.data.minilm` has, and its own tokenizer."""
    from attnreg.data.minilm.encoder import encode

    model, tokenizer = load_model("minilm", dtype=np.float64), load_tokenizer("minilm")
    ids = tokenizer.encode("He drove to the stadium.")
    assert tokenizer.strings(ids) == ("[CLS]", "he", "drove", "to", "the", "stadium", ".", "[SEP]")
    assert tokenizer.decode(ids) == "he drove to the stadium ."
    old, new = encode(encoder, ids), forward(model, ids)
    np.testing.assert_allclose(new.final, old.hidden[-1], rtol=0, atol=1e-13)
    assert new.logits is None


@pytest.mark.slow
def test_smollm2_reads_english(smollm2, capsys):
    """The figures of docs/guides/models.md; a wrong order of the rotated columns has a perplexity above 200."""
    tokenizer = load_tokenizer("smollm2")
    assert look.main(["smollm2", "--continue", "1"]) == 0
    said = capsys.readouterr().out
    assert "'The capital of France is' goes on ' Paris'" in said
    found = perplexity(smollm2, tokenizer.encode(look.story())[:256])
    assert f"perplexity on 256 tokens: {found:.2f}" in said
    assert 19 < found < 32
    assert tokenizer.decode(tokenizer.encode("In 2024, “naïve”\n\n 東京")) == "In 2024, “naïve”\n\n 東京"


@pytest.mark.slow
def test_smollm2_weights_are_what_its_bytes_say(smollm2):
    """Four bits by hand: a block of 32 is a scale, an offset (half precision), and 16 bytes, low halves first."""
    import gguf

    reader = gguf.GGUFReader(cached_file(next(iter(SMOLLM2.files)), None, SMOLLM2))
    tensor = next(t for t in reader.tensors if t.name == "blk.7.attn_q.weight")
    assert tensor.tensor_type.name == "Q4_1"
    blocks = np.asarray(tensor.data).reshape(576, 18, 20)
    scale, offset = (blocks[..., s].copy().view("<f2").astype(np.float32) for s in (slice(0, 2), slice(2, 4)))
    codes = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
    rows = (scale * codes + offset).reshape(9, 32, 2, 576)  # heads, pairs, the two of a pair
    wanted = np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=1).reshape(576, 576)
    np.testing.assert_array_equal(np.asarray(smollm2.parameters.layers[7].query.w).T, wanted)


@pytest.mark.slow
def test_the_factors_of_smollm2_make_its_maps(smollm2):
    ids = load_tokenizer("smollm2").encode(look.story())[:64]
    weights, trace = layer_weights(smollm2, 17), trace_layer(smollm2, ids, 17)
    A = np.asarray(trace.inputs, np.float64)
    for head in (0, 8):
        q, k = (decoder_oracle.turn(A @ W[head], 1e5) for W in (weights.Q, weights.K))
        maps = np.exp(q @ k.T - (q @ k.T).max(axis=1, keepdims=True)) * np.tri(64)
        maps /= maps.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(trace.maps[head], maps, rtol=0, atol=1e-4)
