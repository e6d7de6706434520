"""A small random transformer: the experiment in seconds, without any file."""

import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model, ModelConfig
from attnreg.data.models.parameters import Dense, Layer, Norm, Parameters, Unembedding
from attnreg.data.models.rotary import frequencies


def random_model(
    kind: str, seed: int, *, layers: int, heads: int, groups: int, head_width: int, vocabulary: int, sharpness: float
) -> Model:
    """A BERT ("encoder", one key head a query head) or a Llama ("decoder", rotary, `groups` key heads).

    Columns of queries and keys have unequal sizes, so that a head has a few directions that matter.
    """
    encoder, width = kind == "encoder", heads * head_width
    groups = heads if encoder else groups
    config = ModelConfig(
        family="bert" if encoder else "llama",
        layers=layers,
        width=width,
        heads=heads,
        groups=groups,
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
        rotary_frequencies=() if encoder else frequencies(100.0, head_width),
        rotary_base=None if encoder else 100.0,
    )
    return Model(config, _parameters(config, np.random.default_rng([seed, 0]), sharpness))


def _parameters(config: ModelConfig, rng: np.random.Generator, sharpness: float) -> Parameters:
    d, encoder = config.width, config.family == "bert"
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    norm = lambda: Norm(jnp.ones(d), f32(0.1 + 0.1 * rng.normal(size=d)) if encoder else None)  # noqa: E731

    def dense(m: int, n: int, scale: np.ndarray | float = 1.0) -> Dense:
        return Dense(f32(rng.normal(size=(m, n)) * m**-0.5 * scale), jnp.zeros(n) if encoder else None)

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
        words=f32(rng.normal(size=(config.vocabulary, d))),
        positions=f32(rng.normal(size=(config.longest, d))) if encoder else None,
        norm=norm() if encoder else None,
        layers=layers,
        final_norm=None if encoder else norm(),
        unembedding=None if encoder else Unembedding(),
    )
