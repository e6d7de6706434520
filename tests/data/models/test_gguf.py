"""A GGUF file and a folder of one model agree, and byte-level tokens do what their merges say."""

import gguf
import numpy as np
import pytest
import tokenizers

from attnreg.data.models import forward, load_model, load_tokenizer
from attnreg.problems.checks import ProblemError
from tests.data.models import tiny
from tests.data.models.test_forward import IDS

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}
TOKENS = ["<end>", *"abc1", "Ġ", "ab", "Ġab"]
MERGES = ["a b", "Ġ ab"]


def write(path, architecture="llama", cut="smollm", **extra):
    """The tiny Llama as such a file; row 2i + s of a head of queries or keys is row i + s·width/2 of the folder."""
    fields, tensors = tiny.llama()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_context_length(fields["max_position_embeddings"])
    writer.add_embedding_length(fields["hidden_size"])
    writer.add_feed_forward_length(fields["intermediate_size"])
    writer.add_head_count(fields["num_attention_heads"])
    writer.add_head_count_kv(fields["num_key_value_heads"])
    writer.add_rope_freq_base(fields["rope_theta"])
    writer.add_rope_dimension_count(fields["head_dim"])
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, *[1] * (len(TOKENS) - 1)])
    writer.add_token_merges(MERGES)
    for name, tensor in (tensors | extra).items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if "attn_q" in name or "attn_k" in name:
            width = fields["head_dim"]
            order = [head + i + s * (width // 2) for head in range(0, len(tensor), width)
                     for i in range(width // 2) for s in range(2)]  # fmt: skip
            tensor = np.ascontiguousarray(tensor[order])
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_and_a_folder_agree(tmp_path):
    found = load_model(write(tmp_path / "tiny.gguf"), dtype=np.float64)
    folder = load_model(tiny.write(tmp_path / "folder", *tiny.llama()), dtype=np.float64)
    assert found.config == folder.config
    np.testing.assert_array_equal(forward(found, IDS).logits, forward(folder, IDS).logits)


def test_files_that_are_not_supported_are_named(tmp_path):
    with pytest.raises(ProblemError, match=r"general\.architecture in .* is 'phi3'; supported is 'llama'"):
        load_model(write(tmp_path / "a.gguf", architecture="phi3"))
    with pytest.raises(ProblemError, match=r"no use for \(model\.layers\.rope_freqs\.weight\)"):
        load_model(write(tmp_path / "b.gguf", **{"rope_freqs.weight": np.ones(3, np.float32)}))
    with pytest.raises(ProblemError, match=r"the tokenizer in .* is 'gpt2', cut like 'tekken'"):
        load_tokenizer(write(tmp_path / "c.gguf", cut="tekken"))


def test_tokens_of_a_file(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / "tiny.gguf"))
    ids = tokenizer.encode("ab abc11<end>")
    # Digits are pieces of their own; a mark is one token even inside a text.
    assert [TOKENS[i] for i in ids] == ["ab", "Ġab", "c", "1", "1", "<end>"]
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == "ab abc11"
    assert tokenizer.strings(ids) == ("ab", " ab", "c", "1", "1", "<end>")


def test_tokens_of_a_folder_are_not_cut(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a b b a c").tolist() == [0, 1, 1, 0, 2]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ProblemError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path)
