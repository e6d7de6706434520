"""What a folder may hold, and what is said about one that cannot be used: each refusal names the thing and the cure."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from attnreg.data.models import (
    NAMED,
    Family,
    extras,
    families,
    forward,
    llama,
    load_model,
    load_tokenizer,
    register_family,
    trace_layer,
)
from attnreg.problems.checks import ProblemError
from tests.data.models import tiny
from tests.data.models.test_forward import IDS


def logits(folder):
    return np.asarray(forward(load_model(folder, dtype=np.float64), IDS).logits)


def shard(folder, tensors):
    """The tensors in two files with an index."""
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    (folder / "model.safetensors").unlink()
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_with_an_index_are_one_model(tmp_path):
    fields, tensors = tiny.llama()
    wanted = logits(tiny.write(tmp_path, fields, tensors))
    shard(tmp_path, tensors)
    np.testing.assert_array_equal(logits(tmp_path), wanted)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ProblemError, match=r"b\.safetensors is missing in .*get the whole folder"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../b.safetensors"}}')
    with pytest.raises(ProblemError, match="no weight_map from tensors to files of this folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_floating_type_are_converted_exactly(tmp_path, dtype):
    fields, tensors = tiny.llama()
    rounded = {name: x.astype(dtype) for name, x in tensors.items()}
    wanted = logits(tiny.write(tmp_path / "one", fields, {name: x.astype(np.float64) for name, x in rounded.items()}))
    np.testing.assert_array_equal(logits(tiny.write(tmp_path / "two", fields, rounded)), wanted)


def test_bare_and_old_files_are_read(tmp_path):
    """A bare encoder has no logits; old files say gamma and beta, or hold buffers."""
    fields, tensors = tiny.bert()
    wanted = forward(load_model(tiny.write(tmp_path / "new", fields, tensors)), IDS)
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for name, x in tensors.items()
    }
    found = forward(load_model(tiny.write(tmp_path / "old", fields, old)), IDS)
    np.testing.assert_array_equal(found.logits, wanted.logits)
    bare = {name.removeprefix("bert."): x for name, x in tensors.items() if name.startswith("bert.")}
    found = forward(load_model(tiny.write(tmp_path / "bare", fields, bare)), IDS)
    assert found.logits is None
    np.testing.assert_array_equal(found.final, wanted.final)
    fields, tensors = tiny.gpt2()
    buffers = {"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    assert load_model(tiny.write(tmp_path / "gpt2", fields, tensors | buffers)).config.causal


REFUSED = [
    ("another architecture", dict(model_type="t5"), r"model_type in .*config\.json is 't5'; supported are bert, gpt2"),
    ("no architecture", dict(model_type=None), "model_type in .* is None"),
    ("a soft cap", dict(attn_logit_softcapping=50.0), r"attn_logit_softcapping in .* is 50\.0; only null is supported"),
    ("quantised", dict(quantization_config={"bits": 4}), "quantization_config in .*only null is supported"),
    ("scaled rotary", dict(rope_scaling={"type": "yarn", "factor": 2}), "rope_type of the .* is 'yarn'"),
    ("no factor", dict(rope_scaling={"type": "linear"}), "have no factor, which their rope_type needs"),
    ("partly rotary", dict(partial_rotary_factor=0.5), r"partial_rotary_factor .* is 0\.5; only 1\.0"),
    ("no width", dict(hidden_size=None), "has no hidden_size; it must say so"),
    ("a width of words", dict(hidden_size="12"), "hidden_size in .* is '12', a str; it must be a whole number"),
    ("another width", dict(hidden_size=16), r"embed_tokens\.weight in .* has shape \(23, 12\), .*\(23, 16\)"),
    ("more layers", dict(num_hidden_layers=3), r"has no tensor 'model\.layers\.2\.self_attn\.q_proj\.weight'"),
    ("fewer layers", dict(num_hidden_layers=1), r"has no use for \(model\.layers\.1\..*, …\): it is another"),
    ("biases", dict(attention_bias=True), r"has no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
    ("an activation", dict(hidden_act="tanh"), "hidden_act in .* is 'tanh'; it must be one of 'gelu'"),
    ("groups", dict(num_key_value_heads=3), "groups is 3; 4 query heads must be a multiple of it"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "fields", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_not_supported_is_named(tmp_path, label, fields, words):
    made, tensors = tiny.llama()
    with pytest.raises(ProblemError, match=words):
        load_model(tiny.write(tmp_path, made | fields, tensors))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (tiny.bert(is_decoder=True), "is_decoder in .* is True; only false is supported"),
        (tiny.bert(position_embedding_type="relative_key"), 'position_embedding_type .*only "absolute"'),
        (tiny.gpt2(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx .*only false"),
    ],
)
def test_options_of_other_families_are_named(tmp_path, made, words):
    with pytest.raises(ProblemError, match=words):
        load_model(tiny.write(tmp_path, *made))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ProblemError, match=r"model is 'minilm6'; it must be one of 'minilm', 'smollm2', a folder"):
        load_model("minilm6")
    with pytest.raises(ProblemError, match=r"has no config\.json: a model is a folder with config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ProblemError, match=r"config\.json is not JSON .*get it again"):
        load_model(tmp_path)
    tiny.write(tmp_path, *tiny.llama())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ProblemError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ProblemError, match=r"no weights, \*\.safetensors: write those of \*\.bin anew, by `save_pretrained`"
    ):
        load_model(tmp_path)
    with pytest.raises(ProblemError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ProblemError, match=r"x\.gguf is no GGUF file"):
        load_model(tmp_path / "x.gguf")


def test_integers_are_not_taken_for_weights(tmp_path):
    fields, tensors = tiny.llama()
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.zeros((24, 12), np.int8)
    with pytest.raises(ProblemError, match=r"q_proj\.weight in .* has dtype int8; .*not quantised"):
        load_model(tiny.write(tmp_path, fields, tensors))


def test_the_same_tensor_twice_is_refused(tmp_path):
    fields, tensors = tiny.llama()
    tiny.write(tmp_path, fields, tensors)
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, tmp_path / "other.safetensors")
    with pytest.raises(ProblemError, match=r"has the tensor 'model\.norm\.weight', which another file there has too"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["safetensors", "tokenizers", "gguf"])
def test_an_absent_package_is_named_with_its_command(tmp_path, monkeypatch, name):
    tiny.write(tmp_path, *tiny.llama())
    for file in ("tokenizer.json", "x.gguf"):
        (tmp_path / file).touch()
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    calls = {
        "safetensors": lambda: load_model(tmp_path),
        "tokenizers": lambda: load_tokenizer(tmp_path),
        "gguf": lambda: load_model(tmp_path / "x.gguf"),
    }
    with pytest.raises(
        ProblemError, match=rf"the package '{name}', which is not installed: pip install 'attnreg\[models\]'"
    ):
        calls[name]()


def test_texts_that_a_model_cannot_read_are_refused(tmp_path):
    model = load_model(tiny.write(tmp_path, *tiny.llama("mistral", sliding_window=8)))
    with pytest.raises(ProblemError, match=r"ids has 11 tokens, but this model's sliding window is 8"):
        forward(model, IDS)
    for ids, words in (
        (IDS[None], r"ids has shape \(1, 11\); it must be one document"),
        (np.zeros(33, int), r"ids has shape \(33,\).*n <= 32: cut longer"),
        (np.array([3, 23]), "ids are from 3 to 23; the model's are 0 to 22"),
        (np.array([3.0]), "ids has dtype float64; token ids are integers"),
    ):
        with pytest.raises(ProblemError, match=words):
            trace_layer(model, ids, 0)
    for mask, words in (
        (np.array([False, True]), "put the padding behind the text"),
        (np.array([1, 0]), r"mask has shape \(2,\) and dtype int64; it must be boolean, \(2,\)"),
    ):
        with pytest.raises(ProblemError, match=words):
            forward(model, IDS[:2], mask=mask)
    with pytest.raises(ProblemError, match="layer is 2; it must be at least 0 and at most 1"):
        trace_layer(model, IDS[:2], 2)


def test_windows_are_read_as_each_model_means_them(tmp_path):
    """Mistral's absence means 4096 and its null none; Qwen2 has a switch, and layers that do not slide."""

    def window(kind, **fields):
        made = tiny.llama(kind, biases=kind == "qwen2", **fields)
        return load_model(tiny.write(tmp_path, *made)).config.window

    assert window("mistral") == 4096
    assert window("mistral", sliding_window=None) is None
    assert window("mistral", sliding_window=9) == 9
    assert window("qwen2", sliding_window=9) is None
    assert window("qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=2) is None
    assert window("qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1) == 9


def test_a_family_of_ones_own(tmp_path, monkeypatch):
    """One row of the table: here Llama under another name. A type that is taken is refused."""
    monkeypatch.setattr(families, "FAMILIES", list(families.FAMILIES))
    with pytest.raises(ProblemError, match="model_type 'mistral' belongs to the family 'llama'"):
        register_family(Family("mine", ("mistral",), llama.config, llama.parameters))
    register_family(Family("mine", ("mine",), llama.config, llama.parameters))
    assert load_model(tiny.write(tmp_path, *tiny.llama("mine"))).config.heads == 4


def test_the_names_that_are_known():
    assert sorted(NAMED) == ["minilm", "smollm2"]
