"""What a language model makes of text: its loss on the next token, its perplexity, and how it goes on."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Model
from attnreg.data.models.passes import forward
from attnreg.problems.checks import ProblemError, check_integer


def next_token_losses(logits: ArrayLike, ids: ArrayLike) -> Array:
    """`−log p(token i + 1 | tokens ≤ i)` in nats, (n − 1,), from logits (n, vocabulary) and ids (n,).

    >>> [f"{loss:.4f}" for loss in next_token_losses(np.zeros((2, 4)), np.array([0, 3]))]
    ['1.3863']
    """
    chosen = jnp.asarray(ids)[1:]
    each = jax.nn.log_softmax(jnp.asarray(logits)[:-1], axis=-1)
    return -jnp.take_along_axis(each, chosen[:, None], axis=-1)[:, 0]


def perplexity(model: Model, ids: ArrayLike) -> float:
    """`exp` of the mean of `next_token_losses` on one document ids (n,), n ≥ 2.

    Raises:
        ProblemError: as `attnreg.data.models.forward`, fewer than two tokens, or the model predicts no next tokens.
    """
    return float(jnp.exp(jnp.mean(text_losses(model, ids))))


def text_losses(model: Model, ids: ArrayLike) -> Array:
    """`next_token_losses` of a model on one document ids (n,), n ≥ 2: (n − 1,), in nats.

    Raises:
        ProblemError: as `perplexity`.
    """
    _check_language(model.config)
    if np.size(ids) < 2:
        raise ProblemError(f"ids has {np.size(ids)} tokens; a perplexity needs at least two")
    return next_token_losses(_logits(model, jnp.asarray(ids)), ids)


def continued(model: Model, ids: ArrayLike, count: int) -> np.ndarray:
    """The `count` tokens that the model finds likeliest after ids (n,), one after the other, (count,) int32.

    Cost: `count` whole forward passes of n + count tokens, compiled once; nothing is kept between them.

    Raises:
        ProblemError: as `attnreg.data.models.forward`, or the model predicts no next tokens.
    """
    _check_language(model.config)
    check_integer("count", count, at_least=1)
    known = len(np.asarray(ids))
    tokens = np.concatenate([np.asarray(ids, np.int32), np.zeros(count, np.int32)])
    for place in range(known, known + count):
        # The tokens behind are not seen: the model is causal.
        tokens[place] = np.argmax(np.asarray(_logits(model, jnp.asarray(tokens))[place - 1]))
    return tokens[known:]


def _check_language(config: ModelConfig) -> None:
    if not config.causal:
        raise ProblemError(
            f"a {config.family} reads in both directions and predicts no next token; take a causal model"
        )


def _logits(model: Model, ids: Array) -> Array:
    logits = forward(model, ids).logits
    if logits is None:
        raise ProblemError("the model has no logits: its folder is that of a bare decoder, without lm_head")
    return logits
