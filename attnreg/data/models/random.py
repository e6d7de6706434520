"""A small random transformer, for what needs a model in seconds and without any file."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Model, Norm, Parameters, Unembedding
from attnreg.data.models.rotary import frequencies
from attnreg.problems.checks import check_choice, check_number

KINDS = ("encoder", "decoder")
BASE = 100.0  # of the rotary positions: short texts turn every pair


def random_model(
    kind: str,
    seed: int,
    *,
    layers: int,
    heads: int,
    groups: int,
    head_width: int,
    vocabulary: int,
    sharpness: float,
    rotary: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A BERT ("encoder", one key head a query head) or a Llama ("decoder", `groups` key heads) with random weights.

    Columns of queries and keys have unequal sizes, so that a head has a few directions that matter; logits grow with
    `sharpness`. A decoder without `rotary` has no positions.
    """
    check_choice("kind", kind, KINDS)
    check_number("sharpness", sharpness, above=0)
    encoder, width = kind == "encoder", heads * head_width
    turns = rotary and not encoder
    config = ModelConfig(
        family="bert" if encoder else "llama",
        layers=layers,
        width=width,
        heads=heads,
        groups=heads if encoder else groups,
        head_width=head_width,
        mlp_width=2 * width,
        vocabulary=vocabulary,
        longest=512,
        norm="layer" if encoder else "rms",
        epsilon=1e-6,
        norm_first=not encoder,
        causal=not encoder,
        activation="gelu" if encoder else "silu",
        scale=head_width**-0.5,
        rotary_frequencies=frequencies(BASE, head_width) if turns else (),
        rotary_base=BASE if turns else None,
    )
    return Model(config, _parameters(config, np.random.default_rng([seed, 0]), sharpness, dtype))


def _parameters(config: ModelConfig, rng: np.random.Generator, sharpness: float, dtype: DTypeLike) -> Parameters:
    d, encoder = config.width, config.family == "bert"
    cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
    norm = lambda: Norm(cast(np.ones(d)), cast(0.1 + 0.1 * rng.normal(size=d)) if encoder else None)  # noqa: E731

    def dense(m: int, n: int, scale: np.ndarray | float = 1.0) -> Dense:
        return Dense(cast(rng.normal(size=(m, n)) * m**-0.5 * scale), cast(np.zeros(n)) if encoder else None)

    falling = np.sqrt(sharpness) * np.geomspace(1, 0.05, config.head_width)
    joined, shared, inner = d, config.groups * config.head_width, config.mlp_width
    layers = tuple(
        Layer(
            query=dense(d, joined, np.tile(falling, config.heads)),
            key=dense(d, shared, np.tile(falling, config.groups)),
            value=dense(d, shared),
            output=dense(joined, d),
            attention_norm=norm(),
            up=dense(d, inner),
            down=dense(inner, d),
            output_norm=norm(),
            gate=None if encoder else dense(d, inner),
        )
        for _ in range(config.layers)
    )
    return Parameters(
        words=cast(rng.normal(size=(config.vocabulary, d))),
        positions=cast(rng.normal(size=(config.longest, d))) if encoder else None,
        norm=norm() if encoder else None,
        layers=layers,
        final_norm=None if encoder else norm(),
        unembedding=None if encoder else Unembedding(),
    )
