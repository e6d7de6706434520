"""The model of a survey and its texts: one of yours, or a random one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model, ModelConfig, load_model, load_tokenizer
from attnreg.data.models.parameters import Dense, Layer, Norm, Parameters
from attnreg.data.models.rotary import frequencies
from attnreg.data.models.windows import text_windows
from attnreg.problems.checks import ProblemError, check_integer

WORDS = 50  # that a random model knows


def load(config: Any) -> tuple[Model, np.ndarray]:
    """The model that `config.data` names, and its documents (k, n): training ones, then held-out ones."""
    data = config.data
    counts = (data.documents, data.heldout_documents)
    for name in ("documents", "heldout_documents", "tokens"):
        check_integer(f"data.{name}", data[name], at_least=1)
    if data.model == "random":
        ids = np.random.default_rng(config.seed).integers(0, WORDS, (sum(counts), data.tokens))
        return random_model(config), ids.astype(np.int32)
    if not data.model:
        raise ProblemError("data.model is empty; name a model ('minilm', 'smollm2', 'random') or a folder")
    model = load_model(data.model, dtype=jnp.dtype(config.precision))
    return model, np.concatenate(text_windows(load_tokenizer(data.model), counts, data.tokens, text=data.text))


def random_model(config: Any) -> Model:
    """A Llama of the sizes of `data.random` with random weights; with `rotary` False, without positions."""
    sizes, dtype = config.data.random, jnp.dtype(config.precision)
    d, h, g, w = sizes.width, sizes.heads, sizes.groups, sizes.head_width
    keys = iter(jax.random.split(jax.random.key(config.seed), 1 + 7 * sizes.layers))

    def dense(*shape: int) -> Dense:
        return Dense(1.5 * jax.random.normal(next(keys), shape, dtype) / jnp.sqrt(jnp.asarray(shape[0], dtype)))

    def layer() -> Layer:
        q, k, v, o = dense(d, h * w), dense(d, g * w), dense(d, g * w), dense(h * w, d)
        up, gate, down = dense(d, 2 * d), dense(d, 2 * d), dense(2 * d, d)
        return Layer(q, k, v, o, norm, up, down, norm, gate)

    norm = Norm(jnp.ones(d, dtype))
    words = jax.random.normal(next(keys), (WORDS, d), dtype)
    shape = ModelConfig(
        family="llama", layers=sizes.layers, width=d, heads=h, groups=g, head_width=w, mlp_width=2 * d,
        vocabulary=WORDS, longest=512, norm="rms", epsilon=1e-6, norm_first=True, causal=True, activation="silu",
        scale=w**-0.5, rotary_frequencies=frequencies(100.0, w) if sizes.rotary else (),
    )  # fmt: skip
    return Model(shape, Parameters(words, None, None, tuple(layer() for _ in range(sizes.layers)), norm))
