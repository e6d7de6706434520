"""From a document to tokens.

    concatenated   (a_i, y_i, 0…)                               one token per context row
    alternating    (a_i, 0, code_i, 0…), (0, y_i, code_i, 0…)   two tokens per row; code_i is the pair's position

A query token is (a_q, 0, …, 0); in the alternating layout its code is zero, which no pair has. What a token
carries as y is the target itself ("plain"), or `n b_i − 1` for targets in the simplex ("simplex"): centred and of
order one.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConfig:
    """Layout of the tokens; hashable, static.

    Attributes:
        targets: "plain" (linear regression) or "simplex" (softmax regression).
        layout: "concatenated" or "alternating".
        code: channels of the position code, even (alternating only).
        scratch: extra channels that start at zero.
    """

    targets: Literal["plain", "simplex"] = "plain"
    layout: Literal["concatenated", "alternating"] = "concatenated"
    code: int = 0
    scratch: int = 0

    def __post_init__(self):
        """Refuse contradictory layouts."""
        if self.targets not in ("plain", "simplex"):
            raise ValueError(f"targets is {self.targets!r}; it must be 'plain' or 'simplex'")
        if self.layout not in ("concatenated", "alternating"):
            raise ValueError(f"layout is {self.layout!r}; it must be 'concatenated' or 'alternating'")
        if (self.layout == "alternating") != (self.code > 0) or self.code % 2 or self.scratch < 0:
            raise ValueError(
                f"code={self.code}, scratch={self.scratch}: code must be even and positive for 'alternating' "
                "tokens and 0 for 'concatenated' ones, scratch not negative"
            )

    def width(self, dimension):
        """D, channels of a token."""
        return dimension + 1 + self.code + self.scratch

    def target_channel(self, dimension):
        """The channel that holds y, and from which a query's logit is read."""
        return dimension


def carried(targets, b):
    """What a token carries as y: b, or `n b − 1`."""
    return b if targets == "plain" else b.shape[-1] * b - 1


def position_code(length, channels, dtype):
    """length×channels cosines and sines; row i has `⟨code_i, code_j⟩ = mean_k cos(2πk(i−j)/length)`, k = 1…channels/2.

    >>> position_code(5, 4, "float32") @ position_code(5, 4, "float32")[0] > 0.9
    Array([ True, False, False, False, False], dtype=bool)
    """
    angle = 2 * np.pi * np.arange(length)[:, None] * np.arange(1, channels // 2 + 1)[None, :] / length
    code = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(channels // 2)
    return jnp.asarray(code, dtype)


def tokenise(config, context, targets, queries):
    """Context tokens and query tokens of one document.

    Args:
        config: `TokenConfig`.
        context: n×d.
        targets: (n,), as in the document.
        queries: m×d.

    Returns: (n or 2n)×D context tokens, m×D query tokens.

    >>> import jax.numpy as jnp
    >>> read, ask = tokenise(TokenConfig(), jnp.ones((2, 3)), jnp.array([5.0, 6.0]), jnp.ones((1, 3)))
    >>> read.tolist(), ask.tolist()
    ([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 6.0]], [[1.0, 1.0, 1.0, 0.0]])
    """
    (n, d), dtype = context.shape, context.dtype
    y = carried(config.targets, targets)[:, None]

    def row(*columns):
        used = sum(column.shape[1] for column in columns)
        rest = jnp.zeros((columns[0].shape[0], config.width(d) - used), dtype)
        return jnp.concatenate([*columns, rest], axis=1)

    if config.layout == "concatenated":
        return row(context, y), row(queries)
    code = position_code(n, config.code, dtype)
    inputs, labels = row(context, jnp.zeros_like(y), code), row(jnp.zeros_like(context), y, code)
    return jnp.stack([inputs, labels], axis=1).reshape(2 * n, -1), row(queries)
