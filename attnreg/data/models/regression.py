"""A layer of any model as a regression has it: what its projections read, the weights that are true, how they turn."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.factors import layer_factors, layer_weights
from attnreg.data.models.parameters import Model, Parameters
from attnreg.data.models.passes import checked, trace_layer
from attnreg.problems.layer import LayerWeights
from attnreg.problems.rotary import Rotary


class LayerData(NamedTuple):
    """A layer on some documents.

    Attributes:
        inputs: what the projections read, one array (k, n, d) for each part; where biases ask for it, the last column
            is ones.
        true: Q (h, d, w), K and V (g, d, w), O (h, w, c), float64, the scale of the logits and all biases inside.
        rotary: how queries and keys turn, or None.
        causal: whether token i attends tokens ≤ i only.
    """

    inputs: tuple[np.ndarray, ...]
    true: LayerWeights
    rotary: Rotary | None
    causal: bool


def layer_regression(model: Model, layer: int, parts: Sequence[np.ndarray]) -> LayerData:
    """One layer on documents given as token ids, `parts` of (k, n) each, in the dtype of the model.

    Cost: the layers below, one document at a time.

    Raises:
        ProblemError: no such layer, or ids that `attnreg.data.models.trace_layer` refuses.
    """
    config = model.config
    fold = folding(model, layer)
    every = layer_weights(model, layer, fold=fold)
    shared = config.shared
    true = every._replace(K=every.K[::shared], V=every.V[::shared])
    inputs = tuple(layer_reads(model, ids, layer) for ids in parts)
    if fold == "column":
        inputs = tuple(np.concatenate([A, np.ones_like(A[..., :1])], axis=-1) for A in inputs)
    return LayerData(inputs, true, rotary_of(config), config.causal)


def folding(model: Model, layer: int) -> str:
    """Where the biases of a layer go: "column" behind a norm that keeps no constant, else "auto"."""
    factors = layer_factors(model, layer)
    biased = any(bias is not None for bias in (factors.q_bias, factors.k_bias, factors.v_bias))
    return "column" if biased and model.config.norm != "layer" else "auto"


def rotary_of(config: ModelConfig) -> Rotary | None:
    """The rotary positions of a model for a problem or a fit, or None."""
    if not config.rotary_width:
        return None
    layout = "half" if config.rotary_layout == "half" else "interleaved"
    return Rotary(config.rotary_width, layout=layout, frequencies=np.asarray(config.rotary_frequencies))


def layer_reads(model: Model, ids: np.ndarray, layer: int) -> np.ndarray:
    """What the projections of a layer read, (k, n, d), for documents `ids` (k, n).

    Cost: the layers below it, compiled for all documents and run one document at a time.
    """
    for document in ids:
        checked(model.config, document, None)  # by their values, which compiled code does not see
    return np.asarray(_reads(model.config, layer, model.parameters, jnp.asarray(ids)))


@partial(jax.jit, static_argnums=(0, 1))
def _reads(config: ModelConfig, layer: int, parameters: Parameters, ids: Array) -> Array:
    model = Model(config, parameters)
    return jax.lax.map(lambda document: trace_layer(model, document, layer).inputs, ids)
