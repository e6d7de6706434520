"""The encoder all-MiniLM-L6-v2 as pure functions on a parameter pytree, with its attention heads in view.

One document at a time: ``ids`` is (n,), so no array has a batch axis. For many documents of one length use
`jax.vmap` or, to keep the memory of one, `jax.lax.map`. Shapes: n tokens, width 384, 12 heads of width 32.

The model is a BERT encoder (post-layer-norm): layer l reads the hidden states ``H_l``, and
``H_{l+1} = LN(Z + gelu(Z W_1 + b_1) W_2 + b_2)`` with ``Z = LN(H_l + attention(H_l))``.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from attnreg.data.cache import cached_file

LAYERS, HEADS, WIDTH, HEAD_WIDTH, LONGEST = 6, 12, 384, 32, 512
EPSILON = 1e-12
CLS, SEP = 101, 102
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Dense(NamedTuple):
    """An affine map ``h -> h @ w + b``: w (inputs, outputs), b (outputs,)."""

    w: Array
    b: Array


class Norm(NamedTuple):
    """A layer norm ``gamma * standardised + beta``: gamma (384,), beta (384,)."""

    gamma: Array
    beta: Array


class Layer(NamedTuple):
    """One encoder layer; heads are the 12 consecutive groups of 32 outputs of query, key and value."""

    query: Dense
    key: Dense
    value: Dense
    output: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    output_norm: Norm


class Encoder(NamedTuple):
    """All parameters: embeddings of `words` (30522, 384) and of `positions` (512, 384), their norm, six layers."""

    words: Array
    positions: Array
    norm: Norm
    layers: tuple[Layer, ...]


class Attention(NamedTuple):
    """The attention of one layer: `maps` (12, n, n), outputs of the `heads` (12, n, 32), `output` (n, 384)."""

    maps: Array
    heads: Array
    output: Array


class Trace(NamedTuple):
    """A forward pass: ``hidden[l]`` (n, 384) is the input of layer l, ``hidden[6]`` the model's output."""

    hidden: tuple[Array, ...]
    attention: tuple[Attention, ...]


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file by name, of any shape, mapped from disk, not copied.

    The format: 8 bytes little-endian header length, a JSON header with type, shape and byte range of each
    tensor, the data. One file with a pinned sha256 is all that is ever read here, hence no dependency for it.
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
        ValueError: float64 was asked for while jax is in 32-bit mode.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(
            f"dtype is {jnp.dtype(dtype)} but jax is in 32-bit mode: set jax_enable_x64, or ask for float32."
        )
    tensors = read_safetensors(cached_file("model.safetensors", cache))

    def get(name: str) -> Array:
        return jnp.asarray(np.asarray(tensors[name], dtype=jnp.dtype(dtype)))

    def dense(name: str) -> Dense:
        return Dense(get(f"{name}.weight").T, get(f"{name}.bias"))

    def norm(name: str) -> Norm:
        return Norm(get(f"{name}.weight"), get(f"{name}.bias"))

    def layer(name: str) -> Layer:
        return Layer(
            query=dense(f"{name}.attention.self.query"),
            key=dense(f"{name}.attention.self.key"),
            value=dense(f"{name}.attention.self.value"),
            output=dense(f"{name}.attention.output.dense"),
            attention_norm=norm(f"{name}.attention.output.LayerNorm"),
            up=dense(f"{name}.intermediate.dense"),
            down=dense(f"{name}.output.dense"),
            output_norm=norm(f"{name}.output.LayerNorm"),
        )

    # Texts are single segments, so the embedding of segment 0 is added to every position once and for all.
    segment = get("embeddings.token_type_embeddings.weight")[:1]
    return Encoder(
        words=get("embeddings.word_embeddings.weight"),
        positions=get("embeddings.position_embeddings.weight") + segment,
        norm=norm("embeddings.LayerNorm"),
        layers=tuple(layer(f"encoder.layer.{i}") for i in range(LAYERS)),
    )


def encode(encoder: Encoder, ids: Array, *, layers: int = LAYERS) -> Trace:
    """The forward pass of one document through the first ``layers`` layers.

    Args:
        encoder: from `load_minilm`; its dtype is the dtype of the pass.
        ids: (n,) integer token ids with ``[CLS]`` first and ``[SEP]`` last, n <= 512.
        layers: how many layers to run; ``hidden`` has one entry more.

    Returns:
        The hidden states and, for each layer run, the attention maps, head outputs and layer output.

    Precision: hidden states 1e-5 in float32 and 1e-14 in float64, absolute, with entries up to about 10
        (tests/data/test_encoder.py).

    Cost: 3.5 million + 1536 n flops per token and layer (tests/data/test_encoder.py); memory 12 n² for each
        layer whose maps are used (under ``jit`` unused ones are never stored).

    Raises:
        ValueError: ids is not a vector, or is longer than 512 tokens.
    """
    if ids.ndim != 1 or not 1 <= ids.shape[0] <= LONGEST:
        raise ValueError(f"ids has shape {ids.shape}; it must be one document, (n,), n <= {LONGEST}: cut longer texts.")
    embedded = encoder.words[ids] + encoder.positions[: ids.shape[0]]
    hidden, attention = [_normalise(encoder.norm, embedded)], []
    for layer in encoder.layers[:layers]:
        attention.append(attend(layer, hidden[-1]))
        mixed = _normalise(layer.attention_norm, hidden[-1] + attention[-1].output)
        lifted = jax.nn.gelu(_apply(layer.up, mixed), approximate=False)
        hidden.append(_normalise(layer.output_norm, mixed + _apply(layer.down, lifted)))
    return Trace(tuple(hidden), tuple(attention))


def attend(layer: Layer, hidden: Array) -> Attention:
    """The attention of one layer on its input ``hidden`` (n, 384), before the residual connection."""
    query, key, value = (
        _apply(part, hidden).reshape(-1, HEADS, HEAD_WIDTH) for part in (layer.query, layer.key, layer.value)
    )
    maps = jax.nn.softmax(_einsum("ihc,jhc->hij", query, key) / HEAD_WIDTH**0.5, axis=-1)
    heads = _einsum("hij,jhc->hic", maps, value)
    joined = heads.transpose(1, 0, 2).reshape(-1, WIDTH)
    return Attention(maps, heads, _apply(layer.output, joined))


def _apply(dense: Dense, h: Array) -> Array:
    return _einsum("nc,cm->nm", h, dense.w) + dense.b[None, :]


def _normalise(norm: Norm, h: Array) -> Array:
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return norm.gamma[None, :] * (centred / jnp.sqrt(variance + EPSILON)) + norm.beta[None, :]
