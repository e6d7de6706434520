"""The forward pass of every family, and what a layer's attention reads, makes and writes on the way.

One document at a time: `ids` is (n,), so no array has a batch axis; for many use `jax.vmap`, or `jax.lax.map` to keep
the memory of one. Letters: n tokens, L layers, width d.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.data.models.blocks import LayerTrace, attend, block, embed, maybe_normalise, normalise, unembed
from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Layer, Model, Parameters
from attnreg.problems.checks import ProblemError, check_integer


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
    hidden = [_embed(config, parameters._replace(layers=()), ids)]
    for layer in parameters.layers[:layers]:
        hidden.append(_block(config, layer, hidden[-1], allowed))
    last = parameters._replace(layers=(), unembedding=parameters.unembedding if layers == config.layers else None)
    return Pass(tuple(hidden), *_finish(config, last, hidden[-1]))


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
    hidden = _embed(model.config, model.parameters._replace(layers=()), ids)
    for below in model.parameters.layers[:layer]:
        hidden = _block(model.config, below, hidden, allowed)
    return _trace(model.config, model.parameters.layers[layer], hidden, allowed)


def trace_layers(model: Model, ids: Array, *, mask: Array | None = None) -> Iterator[LayerTrace]:
    """`trace_layer` of every layer in order, in one pass, the memory of one layer at a time.

    Args:
        model, ids, mask: as in `forward`: ids (n,), mask (n,) or None.

    Raises:
        ProblemError: as `forward`.
    """
    ids, allowed = checked(model.config, ids, mask)
    hidden = _embed(model.config, model.parameters._replace(layers=()), ids)
    for layer in model.parameters.layers:
        hidden, trace = _traced_block(model.config, layer, hidden, allowed)
        yield trace


def checked(config: ModelConfig, ids: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """The ids (n,), and who may attend whom, (n, n) or None for all, from a mask (n,); refuses what cannot be read."""
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
            raise ProblemError(
                f"ids are from {host.min()} to {host.max()}; the model's are 0 to {config.vocabulary - 1}"
            )
    return jnp.asarray(ids), _allowed(config, n, mask)


def _allowed(config: ModelConfig, n: int, mask: Array | None) -> Array | None:
    order = jnp.asarray(np.tri(n, dtype=bool)) if config.causal else None
    if mask is None:
        return order
    if np.shape(mask) != (n,) or jnp.result_type(mask) != jnp.bool_:
        raise ProblemError(
            f"mask has shape {np.shape(mask)} and dtype {jnp.result_type(mask)}; it must be boolean, {(n,)}: True "
            f"on the text, False on the padding behind it"
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


@partial(jax.jit, static_argnums=0)
def _embed(config: ModelConfig, parameters: Parameters, ids: Array) -> Array:
    return embed(config, parameters, ids)


@partial(jax.jit, static_argnums=0)
def _block(config: ModelConfig, layer: Layer, hidden: Array, allowed: Array | None) -> Array:
    return block(config, layer, hidden, allowed)[0]


_traced_block = partial(jax.jit, static_argnums=0)(block)


@partial(jax.jit, static_argnums=0)
def _trace(config: ModelConfig, layer: Layer, hidden: Array, allowed: Array | None) -> LayerTrace:
    inputs = normalise(config, layer.attention_norm, hidden) if config.norm_first else hidden
    return attend(config, layer, inputs, allowed)


@partial(jax.jit, static_argnums=0)
def _finish(config: ModelConfig, parameters: Parameters, hidden: Array) -> tuple[Array, Array | None]:
    final = maybe_normalise(config, parameters.final_norm, hidden)
    return final, unembed(config, parameters, final)
