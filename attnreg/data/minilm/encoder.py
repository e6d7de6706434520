"""The encoder all-MiniLM-L6-v2: the BERT of `attnreg.data.models` with the sizes of this model.

One document at a time: ``ids`` is (n,), so no array has a batch axis. For many documents of one length use
`jax.vmap` or, to keep the memory of one, `jax.lax.map`. Shapes: n tokens, width 384, 12 heads of width 32.

The model is a BERT encoder (post-layer-norm): layer l reads the hidden states ``H_l``, and
``H_{l+1} = LN(Z + gelu(Z W_1 + b_1) W_2 + b_2)`` with ``Z = LN(H_l + attention(H_l))``.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from attnreg.data.cache import cached_file
from attnreg.data.models import blocks
from attnreg.data.models.bert import parameters
from attnreg.data.models.blocks import LayerTrace
from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Norm, Parameters
from attnreg.data.models.passes import checked
from attnreg.data.models.reading import Options, Tensors
from attnreg.problems.arrays import check_dtype

LAYERS, HEADS, WIDTH, HEAD_WIDTH, LONGEST = 6, 12, 384, 32, 512
EPSILON = 1e-12
CLS, SEP = 101, 102
CONFIG = ModelConfig(
    family="bert",
    layers=LAYERS,
    width=WIDTH,
    heads=HEADS,
    groups=HEADS,
    head_width=HEAD_WIDTH,
    mlp_width=4 * WIDTH,
    vocabulary=30522,
    longest=LONGEST,
    norm="layer",
    epsilon=EPSILON,
    norm_first=False,
    causal=False,
    activation="gelu",
    scale=HEAD_WIDTH**-0.5,
)
Attention = LayerTrace
Encoder = Parameters
__all__ = ["Attention", "Dense", "Encoder", "Layer", "Norm", "Trace", "attend", "encode", "load_minilm"]


class Trace(NamedTuple):
    """A forward pass: ``hidden[l]`` (n, 384) is the input of layer l, ``hidden[6]`` the model's output."""

    hidden: tuple[Array, ...]
    attention: tuple[Attention, ...]


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file by name, of any shape, mapped from disk, not copied.

    The format: 8 bytes little-endian header length, a JSON header with type, shape and byte range of each
    tensor, the data. One file with a pinned sha256 is all that is ever read here, hence no dependency for it;
    files of others are read by the package (`attnreg.data.models.folder`), which checks more.
    """
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    data = np.memmap(path, np.uint8, mode="r", offset=8 + length)
    return {
        name: data[slice(*entry["data_offsets"])].view("<f4").reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def load_minilm(cache: Path | None = None, *, dtype: DTypeLike = jnp.float32) -> Encoder:
    """The parameters of the fetched model, after checking its sha256.

    Args:
        cache: the cache folder; ``None`` means the default one.
        dtype: float32 (as published) or float64 (the same numbers, exactly; needs ``jax_enable_x64``).

    Raises:
        ModelMissingError, ModelDamagedError: the model is not in the cache, or not intact; the message has
            the cure.
        ProblemError: float64 was asked for while jax is in 32-bit mode.
    """
    check_dtype("dtype", dtype)
    path = cached_file("model.safetensors", cache)
    tensors = read_safetensors(path)
    return parameters(CONFIG, Options({}, str(path)), Tensors(tensors, tensors.__getitem__, str(path), dtype))


def encode(encoder: Encoder, ids: Array, *, layers: int = LAYERS) -> Trace:
    """The forward pass of one document through the first ``layers`` layers.

    Args:
        encoder: from `load_minilm`; its dtype is the dtype of the pass.
        ids: (n,) integer token ids with ``[CLS]`` first and ``[SEP]`` last, n <= 512.
        layers: how many layers to run; ``hidden`` has one entry more.

    Returns:
        The hidden states and, for each layer run, all of its attention.

    Precision: hidden states 1e-5 in float32 and 1e-14 in float64, absolute, with entries up to about 10
        (tests/data/test_encoder.py).

    Cost: 3.5 million + 1536 n flops per token and layer (tests/data/test_encoder.py); memory 12 n² for each
        layer whose maps are used (under ``jit`` unused ones are never stored).

    Raises:
        ProblemError: ids is not a vector, is longer than 512 tokens, or holds no tokens of this model.
    """
    ids, _ = checked(CONFIG, ids, None)
    hidden, attention = [blocks.embed(CONFIG, encoder, ids)], []
    for layer in encoder.layers[:layers]:
        after, done = blocks.block(CONFIG, layer, hidden[-1], None)
        hidden.append(after)
        attention.append(done)
    return Trace(tuple(hidden), tuple(attention))


def attend(layer: Layer, hidden: Array) -> Attention:
    """The attention of one layer on its input ``hidden`` (n, 384), before the residual connection."""
    return blocks.attend(CONFIG, layer, hidden, None)
