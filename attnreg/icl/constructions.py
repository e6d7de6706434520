"""Weights with which a self-attention model *is* an algorithm: the theorems of docs/theory/icl.md as arrays.

All are dicts {"KQ", "PV"} for `ModelConfig(parametrisation="merged")`. A linear layer divides by n, so one gradient
step of linear regression has weight η on the target channel; `gain` converts a step size of either task.
"""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.icl.tasks import TaskConfig
from attnreg.icl.tokens import TokenConfig
from attnreg.problems.checks import check_choice


def gain(task: TaskConfig, eta: Any) -> Any:
    """Weight on the target channel, shaped like `eta`, that makes one linear layer one gradient step of size η.

    The layer adds `gain · (1/n) Σ_i y_i ⟨a_i, a_q⟩`. Linear: `(η/n) Σ b_i ⟨a_i, a_q⟩`, gain = η. Softmax, from
    `∇L(0) = −(2/n) Aᵀ(b − 1/n)` and y = n b − 1: gain = 2η/n.
    """
    return eta if task.kind == "linear" else 2 * eta / task.length


def _blocks(dimension: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Projections onto the features and onto the target channel, (D, D)."""
    D = dimension + 1
    features = jnp.zeros((D, D), dtype).at[:dimension, :dimension].set(jnp.eye(dimension, dtype=dtype))
    target = jnp.zeros((D, D), dtype).at[dimension, dimension].set(1)
    return features, target


def linear_descent(
    gains: Any, dimension: int, *, dtype: str = "float32", gammas: Any | None = None
) -> dict[str, jax.Array]:
    """K linear layers that perform K gradient steps of linear regression, or GD++.

    Layer k: `M = diag(I, 0)`, `PV = −diag(γ_k n I, gain_k)`: the target channel of every token goes
    `y ← y − gain_k (1/n) Σ y_i ⟨a_i, a⟩`, so it holds the residual, and a query's channel minus its prediction.
    For softmax regression one layer (`gains = [2η/n]`) is one step from 0; deeper layers would repeat the linear
    residual, which is not its gradient.

    Args:
        gains: (K,) see `gain`.
        dimension: d.
        dtype: of the weights.
        gammas: (K,) γ_k·n, the data step of GD++ in units of the mean `AᵀA/n`; None for plain descent.

    Returns: weights {"KQ", "PV"} of shape (K, 1, D, D), D = d + 1; K = 1 also fits a shared model of any depth.
    Precision: equals the explicit algorithm to 1e-6 (float32), 1e-12 (float64): `test_constructions`.
    Source: derived in docs/theory/icl.md; after Proposition 1 of arXiv 2212.07677.

    >>> linear_descent(jnp.ones(2), 3)["PV"].shape
    (2, 1, 4, 4)
    """
    features, target = _blocks(dimension, dtype)
    gains = jnp.asarray(gains, dtype)
    gammas = jnp.zeros_like(gains) if gammas is None else jnp.asarray(gammas, dtype)
    PV = -(gammas[:, None, None] * features[None] + gains[:, None, None] * target[None])
    KQ = jnp.broadcast_to(features[None], PV.shape)
    return {"KQ": KQ[:, None], "PV": PV[:, None]}


def softmax_step(
    total_gain: Any, scale: Any, dimension: int, *, heads: int = 1, dtype: str = "float32"
) -> dict[str, jax.Array]:
    """A softmax layer that tends to one gradient step as its logit scale s → 0.

    One head, `M = s·diag(I, 0)`, `PV = −(gain/s)·target`: the query receives
    `−(gain/s) Σ_i softmax_i(s⟨a_q, a_i⟩) y_i = −gain·Cov_i(⟨a_q, a_i⟩, y_i) − (gain/s)·mean(y) + O(s)`.
    With centred targets (softmax regression) that is the gradient step, error O(s). Two heads of logit scale ±s and
    gain ±gain/2 cancel mean(y) and every even power: error O(s²), and for linear regression the limit is the step on
    centred data, `(η/n) Σ (b_i − b̄)⟨a_i, a_q⟩`.

    Args:
        total_gain: scalar, see `gain`.
        scale: scalar s > 0.
        dimension: d.
        heads: 1 or 2.
        dtype: of the weights.

    Returns: weights {"KQ", "PV"} of shape (1, heads, D, D), D = d + 1.
    Precision: the stated rates are measured in `test_constructions` (slopes 1 and 2).
    Raises: ProblemError for another number of heads.
    Source: derived in docs/theory/icl.md.

    >>> softmax_step(1.0, 0.1, 3, heads=2)["KQ"].shape
    (1, 2, 4, 4)
    """
    check_choice("heads", heads, (1, 2))
    features, target = _blocks(dimension, dtype)
    signed = jnp.asarray(scale, dtype) * jnp.asarray((1, -1)[:heads], dtype)[:, None, None]
    head_gain = jnp.asarray(total_gain / heads, dtype)
    return {"KQ": (signed * features[None])[None], "PV": (-(head_gain / signed) * target[None])[None]}


def copy_and_step(
    total_gain: Any, sharpness: Any, dimension: int, code: int, *, dtype: str = "float32"
) -> dict[str, jax.Array]:
    """Two layers (softmax, linear) that perform one gradient step of linear regression on *alternating* tokens.

    Layer 1: every context token attends, by position code and with logits `sharpness·⟨code_i, code_j⟩`, to the two
    tokens of its own pair, and receives 2·mean(a_i, 0) = a_i in the scratch channels. Layer 2, linear over 2n tokens,
    compares a query's features with scratch: `Σ_i y_i ⟨scratch_i, a_q⟩/(2n)`, gain doubled.

    Args:
        total_gain: scalar, see `gain`.
        sharpness: scalar > 0.
        dimension: d.
        code: channels of the position code.
        dtype: of the weights.

    Returns: weights {"KQ", "PV"} (2, 1, D, D) for `TokenConfig(layout="alternating", code=code, scratch=d)`, of
        width D = 2d + 1 + code.
    Precision: the error falls exponentially in the sharpness (`test_constructions`).
    Raises: ProblemError for a code that no alternating tokens have.
    Source: derived in docs/theory/icl.md.

    >>> copy_and_step(1.0, 50.0, 3, 4)["KQ"].shape
    (2, 1, 11, 11)
    """
    d, D = dimension, TokenConfig(layout="alternating", code=code, scratch=dimension).width(dimension)
    y, codes, scratch = d, slice(d + 1, d + 1 + code), slice(d + 1 + code, D)
    zero, eye = jnp.zeros((D, D), dtype), jnp.eye(d, dtype=dtype)
    match = zero.at[codes, codes].set(sharpness * jnp.eye(code, dtype=dtype))
    copy = zero.at[scratch, :d].set(2 * eye)
    compare = zero.at[:d, scratch].set(eye)
    step = zero.at[y, y].set(-2 * total_gain)
    return {"KQ": jnp.stack([match, compare])[:, None], "PV": jnp.stack([copy, step])[:, None]}
