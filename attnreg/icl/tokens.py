"""From a document to tokens of D channels.

    concatenated   (a_i, y_i, 0…)                               one token per context row
    alternating    (a_i, 0, code_i, 0…), (0, y_i, code_i, 0…)   two tokens per row; code_i is the pair's position

A query token is (a_q, 0, …, 0); in the alternating layout its code is zero, which no pair has. What a token carries as
y is the target itself ("plain"), or `n b_i − 1` for targets in the simplex ("simplex"): centred and of order one.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import ProblemError, check_choice, check_integer

TARGETS = ("plain", "simplex")
LAYOUTS = ("concatenated", "alternating")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConfig:
    """How a document becomes tokens; hashable, static.

    Attributes:
        targets: what a token carries as y: "plain" b_i (linear regression) or "simplex" `n b_i − 1` (softmax).
        layout: "concatenated" or "alternating".
        code: channels of the position code, even and positive for "alternating" tokens, 0 for "concatenated" ones.
        scratch: extra channels that start at zero.

    Raises: ProblemError for a field of another type, out of range, or for an unknown name.
    """

    targets: Literal["plain", "simplex"] = "plain"
    layout: Literal["concatenated", "alternating"] = "concatenated"
    code: int = 0
    scratch: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown names and contradictory layouts."""
        check_choice("targets", self.targets, TARGETS)
        check_choice("layout", self.layout, LAYOUTS)
        check_integer("code", self.code, at_least=0)
        check_integer("scratch", self.scratch, at_least=0)
        if (self.layout == "alternating") != (self.code > 0) or self.code % 2:
            needed = "even and positive" if self.layout == "alternating" else "0"
            raise ProblemError(f"code is {self.code}; it must be {needed} for {self.layout} tokens")

    def width(self, dimension: int) -> int:
        """D, the channels of a token: d features, the target channel (number d), the code and the scratch channels."""
        return dimension + 1 + self.code + self.scratch


def carried(tokens: TokenConfig, targets: jax.Array) -> jax.Array:
    """What tokens carry of the targets b (…, n), shaped like them: b, or `n b − 1`."""
    return targets if tokens.targets == "plain" else targets.shape[-1] * targets - 1


def position_code(length: int, channels: int, dtype: str) -> jax.Array:
    """Cosines and sines (length, channels): `⟨code_i, code_j⟩ = mean_k cos(2πk(i−j)/length)`, k = 1…channels/2.

    >>> position_code(5, 4, "float32") @ position_code(5, 4, "float32")[0] > 0.9
    Array([ True, False, False, False, False], dtype=bool)
    """
    angle = 2 * np.pi * np.arange(length)[:, None] * np.arange(1, channels // 2 + 1)[None, :] / length
    code = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(channels // 2)
    return jnp.asarray(code, dtype)


def tokenise(
    tokens: TokenConfig, context: jax.Array, targets: jax.Array, queries: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Context tokens (n, D), or (2n, D) when alternating, and query tokens (m, D) of one document.

    Args:
        tokens: `TokenConfig`.
        context: (n, d).
        targets: (n,), as in the document.
        queries: (m, d).

    Returns: context tokens (n, D) or (2n, D), query tokens (m, D).

    >>> import jax.numpy as jnp
    >>> read, ask = tokenise(TokenConfig(), jnp.ones((2, 3)), jnp.array([5.0, 6.0]), jnp.ones((1, 3)))
    >>> read.tolist(), ask.tolist()
    ([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 6.0]], [[1.0, 1.0, 1.0, 0.0]])
    """
    n, d = context.shape
    y = carried(tokens, targets)[:, None]

    def padded(*columns: jax.Array) -> jax.Array:
        used = jnp.concatenate(columns, axis=1)
        return jnp.pad(used, ((0, 0), (0, tokens.width(d) - used.shape[1])))

    if tokens.layout == "concatenated":
        return padded(context, y), padded(queries)
    code = position_code(n, tokens.code, str(context.dtype))
    inputs, labels = padded(context, jnp.zeros_like(y), code), padded(jnp.zeros_like(context), y, code)
    return jnp.stack([inputs, labels], axis=1).reshape(2 * n, -1), padded(queries)
