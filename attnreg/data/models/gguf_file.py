"""A model of the Llama family in one GGUF file, weights of any number of bits: the package `gguf` unpacks them.

The file has other names than a folder has, and its queries and keys have their columns in another order: this format
rotates neighbours (2i, 2i + 1), the Llama family of folders column i with i + w/2. Both are brought to the latter.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from attnreg.data.models.extras import extra
from attnreg.data.models.families import build
from attnreg.data.models.parameters import Model
from attnreg.data.models.reading import Options, Tensors
from attnreg.data.models.tokens import FastTokenizer, byte_pairs
from attnreg.problems.arrays import check_dtype
from attnreg.problems.checks import ProblemError

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
# How a text is cut before pairs are merged: whether each digit is a piece of its own.
_CUTS = {"smollm": True, "gpt-2": False}
_MARK = 3  # the token type of marks such as the end of a text


def load_gguf(path: Path, *, dtype: DTypeLike = np.float32) -> Model:
    """The model of a GGUF file of architecture "llama".

    Raises:
        ProblemError: no such file, another architecture, tensors without a place in it (such as scaled rotary
            frequencies), or the package `gguf` is not installed.
    """
    check_dtype("dtype", dtype)
    reader, quants = _reader(path), extra("gguf.quants")
    options = _options(reader, path)
    tensors = {folder_name(tensor.name): tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        found = quants.dequantize(tensor.data, tensor.tensor_type)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        return found if heads is None else halves(found, options.integer(heads))

    return build(options, Tensors(tensors, read, str(path), dtype))


def halves(w: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection w (heads · width, …) from neighbouring pairs to halves, head by head; shaped like w.

    >>> halves(np.arange(6), 1).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    pairs = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:])
    return pairs.swapaxes(1, 2).reshape(w.shape)


def folder_name(name: str) -> str:
    """The name that a tensor of this format has in a folder.

    >>> folder_name("blk.3.attn_q.weight"), folder_name("output_norm.weight")
    ('model.layers.3.self_attn.q_proj.weight', 'model.norm.weight')
    """
    *place, kind = name.split(".")
    if len(place) == 3 and place[0] == "blk":
        return f"model.layers.{place[1]}.{_PARTS.get(place[2], place[2])}.{kind}"
    # A tensor that has no place is given one among the layers, where the family refuses what it does not know.
    return f"{_WHOLE[place[0]]}.{kind}" if place and place[0] in _WHOLE else f"model.layers.{name}"


def gguf_tokenizer(path: Path) -> FastTokenizer:
    """The byte-level BPE tokenizer inside a GGUF file.

    Raises:
        ProblemError: it is of another kind; the message names it.
    """
    reader = _reader(path)
    kind, cut = (_field(reader, f"tokenizer.ggml.{name}", path) for name in ("model", "pre"))
    if kind != "gpt2" or cut not in _CUTS:
        raise ProblemError(
            f"the tokenizer in {path} is {kind!r}, cut like {cut!r}; supported is 'gpt2', cut like "
            f"{' or '.join(_CUTS)}: bring the model's tokenizer.json in a folder"
        )
    tokens, merges, types = (
        _field(reader, f"tokenizer.ggml.{name}", path) for name in ("tokens", "merges", "token_type")
    )
    marks = [token for token, kind in zip(tokens, types, strict=True) if kind == _MARK]
    return byte_pairs(tokens, merges, marks, digits=_CUTS[cut])


def _options(reader: Any, path: Path) -> Options:
    """The metadata of the file, under the names of a config.json."""
    architecture = _field(reader, "general.architecture", path)
    if architecture != "llama":
        raise ProblemError(f"general.architecture in {path} is {architecture!r}; supported is 'llama': bring a folder")

    def number(name: str, default: Any = None) -> Any:
        return _field(reader, f"llama.{name}", path, default)

    words = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    heads = number("attention.head_count")
    return Options(
        {
            "model_type": "llama",
            "num_hidden_layers": number("block_count"),
            "hidden_size": number("embedding_length"),
            "num_attention_heads": heads,
            "num_key_value_heads": number("attention.head_count_kv", heads),
            "head_dim": number("rope.dimension_count", number("embedding_length") // heads),
            "intermediate_size": number("feed_forward_length"),
            "vocab_size": int(words.shape[1]),
            "max_position_embeddings": number("context_length"),
            # The file has single precision; the number that was meant is the shortest with that rounding.
            "rms_norm_eps": float(str(np.float32(number("attention.layer_norm_rms_epsilon")))),
            "rope_theta": number("rope.freq_base", 10000.0),
            "rope_scaling": _scaling(number("rope.scaling.type", "none"), number("rope.scaling.factor", 1.0)),
            "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in reader.tensors),
        },
        str(path),
    )


def _scaling(kind: str, factor: float) -> dict[str, Any] | None:
    return None if kind == "none" else {"rope_type": kind, "factor": factor}


def _reader(path: Path) -> Any:
    if not path.is_file():
        raise ProblemError(f"there is no file {path}")
    try:
        return extra("gguf").GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ProblemError(f"{path} is no GGUF file, or a damaged one ({error}): get it again") from error


_NEEDED = object()


def _field(reader: Any, name: str, path: Path, default: Any = _NEEDED) -> Any:
    """One entry of the metadata."""
    found = reader.get_field(name)
    if found is not None:
        return found.contents()
    if default is _NEEDED or default is None:
        raise ProblemError(f"{path} has no {name}, which a model of this kind needs")
    return default
