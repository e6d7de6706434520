"""The weights of a transformer as one pytree, whatever its family. Matrices act from the right: `h @ w + b`."""

from typing import NamedTuple

import jax
from jax import Array

from attnreg.data.models.config import ModelConfig
from attnreg.problems.checks import pytree_dataclass


class Dense(NamedTuple):
    """An affine map ``h -> h @ w + b``: w (inputs, outputs), b (outputs,) or None."""

    w: Array
    b: Array | None = None


class Norm(NamedTuple):
    """A norm ``gamma * standardised + beta``: gamma (width,), beta (width,) or None (the RMS norm has none)."""

    gamma: Array
    beta: Array | None = None


class Layer(NamedTuple):
    """One block; a head is a group of consecutive outputs of query, key and value.

    `attention_norm` and `output_norm` are in front of the attention and of the MLP where `norm_first`, else behind
    them. `gate` is the third matrix of a gated MLP, `down(act(gate h) * up h)`, or None.
    """

    query: Dense
    key: Dense
    value: Dense
    output: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    output_norm: Norm
    gate: Dense | None = None


class Unembedding(NamedTuple):
    """From hidden states to logits: `rows` (vocabulary, width) and b (vocabulary,), or None to reuse the embedding.

    BERT puts a dense map and a norm in front: `transform`, `norm`.
    """

    rows: Array | None = None
    b: Array | None = None
    transform: Dense | None = None
    norm: Norm | None = None


class Parameters(NamedTuple):
    """All weights: of `words` (vocabulary, width) and of `positions` (longest, width) or None, and the layers.

    `norm` follows the embeddings (BERT) and `final_norm` the last layer (GPT-2, Llama); the other is None. Without
    `unembedding` a model has no logits.
    """

    words: Array
    positions: Array | None
    norm: Norm | None
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None
    unembedding: Unembedding | None = None


@pytree_dataclass("config")
class Model:
    """A transformer: its numbers, static, and its weights.

    Attributes:
        config: the numbers.
        parameters: the weights; their dtype is that of the forward pass.
    """

    config: ModelConfig
    parameters: Parameters

    @property
    def dtype(self) -> jax.numpy.dtype:
        """The dtype of the weights, which is that of the forward pass."""
        return self.parameters.words.dtype
