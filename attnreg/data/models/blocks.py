"""The parts of a transformer that every family is made of, as pure functions of weights and arrays.

Letters: n tokens, width d, h query heads and g key heads of width w. A block is `H + attend(norm(H))`, then
`H + mlp(norm(H))`, or with the norms behind the sums (BERT).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Norm, Parameters
from attnreg.data.models.rotary import rotate
from attnreg.lift.tensor_trick import einsum

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class LayerTrace(NamedTuple):
    """The attention of one layer, from what it reads to what it writes.

    Attributes:
        inputs: (n, d) what the query, key and value projections read: behind the norm where the norm is in front.
        q: (h, n, w) queries, with their bias, before rotary positions and without the scale.
        k, v: (g, n, w) keys, alike, and values; head i reads group `i // (h // g)`.
        q_rotated, k_rotated: (h, n, w) and (g, n, w) after rotary positions; q and k where there are none.
        maps: (h, n, n) `softmax(scale · q_rotated k_rotatedᵀ)` over the keys that a query may attend.
        heads: (h, n, w) maps times values.
        output: (n, d) the heads through the output projection, with its bias, before it is added to what the layer
            was given.
    """

    inputs: Array
    q: Array
    k: Array
    v: Array
    q_rotated: Array
    k_rotated: Array
    maps: Array
    heads: Array
    output: Array


def embed(config: ModelConfig, parameters: Parameters, ids: Array) -> Array:
    """What the first layer is given, (n, d), for ids (n,)."""
    embedded = parameters.words[ids]
    if parameters.positions is not None:
        embedded = embedded + parameters.positions[: ids.shape[0]]
    return maybe_normalise(config, parameters.norm, embedded)


def attend(config: ModelConfig, layer: Layer, inputs: Array, allowed: Array | None) -> LayerTrace:
    """The attention of one layer on what its projections read, inputs (n, d); allowed (n, n) or None for all."""
    q, k, v = (
        apply(part, inputs).reshape(-1, heads, config.head_width).transpose(1, 0, 2)
        for part, heads in ((layer.query, config.heads), (layer.key, config.groups), (layer.value, config.groups))
    )
    turned = [rotate(x, config.rotary_frequencies, config.rotary_layout) for x in (q, k)]
    # Query heads that share keys are one axis more, (g, h/g, n, w): no key is copied.
    grouped = turned[0].reshape(config.groups, config.shared, *q.shape[1:])
    logits = einsum("gsic,gjc->gsij", grouped, turned[1]) * config.scale
    if allowed is not None:
        logits = jnp.where(allowed[None, None], logits, -jnp.inf)
    maps = jax.nn.softmax(logits, axis=-1)
    heads = einsum("gsij,gjc->gsic", maps, v).reshape(q.shape)
    joined = heads.transpose(1, 0, 2).reshape(-1, config.heads * config.head_width)
    maps = maps.reshape(config.heads, *maps.shape[2:])
    return LayerTrace(inputs, q, k, v, turned[0], turned[1], maps, heads, apply(layer.output, joined))


def block(config: ModelConfig, layer: Layer, hidden: Array, allowed: Array | None) -> tuple[Array, LayerTrace]:
    """What a layer leaves, (n, d), and its attention; hidden (n, d) is what it is given, allowed (n, n) or None."""
    if config.norm_first:
        done = attend(config, layer, normalise(config, layer.attention_norm, hidden), allowed)
        mixed = hidden + done.output
        return mixed + mlp(config, layer, normalise(config, layer.output_norm, mixed)), done
    done = attend(config, layer, hidden, allowed)
    mixed = normalise(config, layer.attention_norm, hidden + done.output)
    return normalise(config, layer.output_norm, mixed + mlp(config, layer, mixed)), done


def mlp(config: ModelConfig, layer: Layer, h: Array) -> Array:
    """The MLP of a layer on h (n, d), (n, d)."""
    act = FUNCTIONS[config.activation]
    lifted = apply(layer.up, h)
    return apply(layer.down, act(lifted) if layer.gate is None else act(apply(layer.gate, h)) * lifted)


def unembed(config: ModelConfig, parameters: Parameters, final: Array) -> Array | None:
    """The logits (n, vocabulary) of final hidden states (n, d), or None where the model has none."""
    last = parameters.unembedding
    if last is None:
        return None
    if last.transform is not None and last.norm is not None:
        final = normalise(config, last.norm, FUNCTIONS[config.activation](apply(last.transform, final)))
    logits = einsum("nd,vd->nv", final, parameters.words if last.rows is None else last.rows)
    return logits if last.b is None else logits + last.b[None, :]


def apply(dense: Dense, h: Array) -> Array:
    """`h @ w + b` for h (n, inputs), (n, outputs)."""
    out = einsum("nc,cm->nm", h, dense.w)
    return out if dense.b is None else out + dense.b[None, :]


def normalise(config: ModelConfig, norm: Norm, h: Array) -> Array:
    """A layer or RMS norm of each row of h (n, d), shaped like h."""
    centred = h - jnp.mean(h, axis=-1, keepdims=True) if config.norm == "layer" else h
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    scaled = norm.gamma[None, :] * (centred / jnp.sqrt(variance + config.epsilon))
    return scaled if norm.beta is None else scaled + norm.beta[None, :]


def maybe_normalise(config: ModelConfig, norm: Norm | None, h: Array) -> Array:
    """`normalise` where there is a norm, else h (n, d) itself; shaped like h."""
    return h if norm is None else normalise(config, norm, h)
