"""The forward pass of every family, and what a layer's attention reads, makes and writes on the way.

One document at a time: `ids` is (n,), so no array has a batch axis; for many use `jax.vmap`, or `jax.lax.map` to keep
the memory of one. Letters: n tokens, L layers, width d, h query heads and g key heads of width w. A block is
`H + attend(norm(H))`, then `H + mlp(norm(H))`, or with the norms behind the sums (BERT).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Model, Norm, Parameters
from attnreg.data.models.rotary import rotate
from attnreg.lift.tensor_trick import einsum
from attnreg.problems.checks import ProblemError, check_integer


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


class Pass(NamedTuple):
    """A forward pass.

    Attributes:
        hidden: L + 1 arrays (n, d): what each layer is given, before its norm, and what the last one leaves.
        final: (n, d) the last of them behind the final norm, where the model has one.
        logits: (n, vocabulary), or None where the model has none or not all layers were run.
    """

    hidden: tuple[Array, ...]
    final: Array
    logits: Array | None


def forward(model: Model, ids: Array, *, mask: Array | None = None, layers: int | None = None) -> Pass:
    """The forward pass of one document.

    Args:
        model: from `attnreg.data.models.load_model`.
        ids: (n,) integer token ids, at most `model.config.longest`.
        mask: (n,) boolean, True on the text and False on the padding behind it; None where there is no padding. No
            token attends padding; the rows of padding themselves mean nothing.
        layers: how many layers to run; None for all.

    Precision: float32 within 1e-5 of the largest entry of the formulas in float64, float64 within 1e-12
        (tests/data/models/test_forward.py, and tests/data/transformers_oracle.py against another implementation).

    Cost: a matrix product per weight and 2 n² d per layer and product with a map. The block is compiled once, not per
        layer (tests/data/models/test_forward.py).

    Raises:
        ProblemError: ids is not one document, is too long, or holds no token of this model; the mask is not one.
    """
    config, parameters = model.config, model.parameters
    ids, allowed = checked(config, ids, mask)
    layers = check_layers(config, layers)
    hidden = [embed(config, parameters, ids)]
    for layer in parameters.layers[:layers]:
        hidden.append(_block(config, layer, hidden[-1], allowed))
    final = _maybe_norm(config, parameters.final_norm, hidden[-1])
    return Pass(tuple(hidden), final, unembed(config, parameters, final) if layers == config.layers else None)


def trace_layer(model: Model, ids: Array, layer: int, *, mask: Array | None = None) -> LayerTrace:
    """What the attention of one layer reads, makes and writes on one document; only the layers below it are run.

    Args:
        model, ids, mask: as in `forward`: ids (n,), mask (n,) or None.
        layer: from 0.

    Raises:
        ProblemError: as `forward`, or there is no such layer.
    """
    check_integer("layer", layer, at_least=0, at_most=model.config.layers - 1)
    ids, allowed = checked(model.config, ids, mask)
    hidden = embed(model.config, model.parameters, ids)
    for below in model.parameters.layers[:layer]:
        hidden = _block(model.config, below, hidden, allowed)
    return _trace(model.config, model.parameters.layers[layer], hidden, allowed)


def checked(config: ModelConfig, ids: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """The ids (n,), and who may attend whom, boolean (n, n) or None for all; refuses what the model cannot read."""
    shape = np.shape(ids)
    if len(shape) != 1 or not 1 <= shape[0] <= config.longest:
        raise ProblemError(
            f"ids has shape {shape}; it must be one document, (n,), n <= {config.longest}: cut longer texts."
        )
    n = shape[0]
    if config.window is not None and n > config.window:
        raise ProblemError(
            f"ids has {n} tokens, but this model's sliding window is {config.window}, and only texts that fit into it "
            f"are supported: cut them to {config.window} tokens."
        )
    if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
        raise ProblemError(f"ids has dtype {jnp.result_type(ids)}; token ids are integers")
    if not isinstance(ids, jax.core.Tracer):
        host = np.asarray(ids)
        if host.min() < 0 or host.max() >= config.vocabulary:
            raise ProblemError(f"ids are from {host.min()} to {host.max()}; the model's are 0 to {config.vocabulary - 1}")
    return jnp.asarray(ids), _allowed(config, n, mask)


def _allowed(config: ModelConfig, n: int, mask: Array | None) -> Array | None:
    order = jnp.asarray(np.tri(n, dtype=bool)) if config.causal else None
    if mask is None:
        return order
    if np.shape(mask) != (n,) or jnp.result_type(mask) != jnp.bool_:
        raise ProblemError(
            f"mask has shape {np.shape(mask)} and dtype {jnp.result_type(mask)}; it must be boolean, {(n,)}: True on the "
            f"text, False on the padding behind it"
        )
    if not isinstance(mask, jax.core.Tracer):
        host = np.asarray(mask)
        if not host[0] or np.any(host[1:] & ~host[:-1]):
            raise ProblemError("mask is False before it is True; put the padding behind the text")
    keys = jnp.broadcast_to(jnp.asarray(mask)[None, :], (n, n))
    return keys if order is None else keys & order


def check_layers(config: ModelConfig, layers: int | None) -> int:
    """How many layers to run, all for None."""
    if layers is None:
        return config.layers
    check_integer("layers", layers, at_least=0, at_most=config.layers)
    return layers


def embed(config: ModelConfig, parameters: Parameters, ids: Array) -> Array:
    """What the first layer is given, (n, d), for ids (n,)."""
    embedded = parameters.words[ids]
    if parameters.positions is not None:
        embedded = embedded + parameters.positions[: ids.shape[0]]
    return _maybe_norm(config, parameters.norm, embedded)


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
    """What a layer leaves, (n, d), and its attention, for what it is given, hidden (n, d), and allowed (n, n) or None."""
    if config.norm_first:
        done = attend(config, layer, normalise(config, layer.attention_norm, hidden), allowed)
        mixed = hidden + done.output
        return mixed + mlp(config, layer, normalise(config, layer.output_norm, mixed)), done
    done = attend(config, layer, hidden, allowed)
    mixed = normalise(config, layer.attention_norm, hidden + done.output)
    return normalise(config, layer.output_norm, mixed + mlp(config, layer, mixed)), done


def mlp(config: ModelConfig, layer: Layer, h: Array) -> Array:
    """The MLP of a layer on h (n, d), (n, d)."""
    act = ACTIVATIONS[config.activation]
    lifted = apply(layer.up, h)
    return apply(layer.down, act(lifted) if layer.gate is None else act(apply(layer.gate, h)) * lifted)


def unembed(config: ModelConfig, parameters: Parameters, final: Array) -> Array | None:
    """The logits (n, vocabulary) of final hidden states (n, d), or None where the model has none."""
    last = parameters.unembedding
    if last is None:
        return None
    if last.transform is not None and last.norm is not None:
        final = normalise(config, last.norm, ACTIVATIONS[config.activation](apply(last.transform, final)))
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


def _maybe_norm(config: ModelConfig, norm: Norm | None, h: Array) -> Array:
    return h if norm is None else normalise(config, norm, h)


ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@partial(jax.jit, static_argnums=0)
def _block(config: ModelConfig, layer: Layer, hidden: Array, allowed: Array | None) -> Array:
    return block(config, layer, hidden, allowed)[0]


@partial(jax.jit, static_argnums=0)
def _trace(config: ModelConfig, layer: Layer, hidden: Array, allowed: Array | None) -> LayerTrace:
    inputs = normalise(config, layer.attention_norm, hidden) if config.norm_first else hidden
    return attend(config, layer, inputs, allowed)
