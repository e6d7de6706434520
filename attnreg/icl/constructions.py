"""Weights with which a self-attention model *is* an algorithm: the theorems of docs/theory/icl.md as arrays.

All are dicts {"KQ", "PV"} for `ModelConfig(parametrisation="merged")`. A linear layer divides by n, so one gradient
step of linear regression has weight η on the target channel; `gain` converts a step size of either problem.
"""

import jax.numpy as jnp

from attnreg.icl.tokens import TokenConfig


def gain(problem, eta, length):
    """Weight on the target channel that makes one linear layer one gradient step of size η.

    The layer adds `gain · (1/n) Σ_i y_i ⟨a_i, a_q⟩`. Linear: `(η/n) Σ b_i ⟨a_i, a_q⟩`, gain = η. Softmax, from
    `∇L(0) = −(2/n) Aᵀ(b − 1/n)` and y = n b − 1: gain = 2η/n.
    """
    return eta if problem == "linear" else 2 * eta / length


def _blocks(tokens, dimension, dtype):
    """Projections onto the features and onto the target channel, D×D."""
    D, y = tokens.width(dimension), tokens.target_channel(dimension)
    features = jnp.zeros((D, D), dtype).at[:dimension, :dimension].set(jnp.eye(dimension, dtype=dtype))
    target = jnp.zeros((D, D), dtype).at[y, y].set(1)
    return features, target


def step_layer(gain_value, scale, dimension, *, tokens=None, dtype="float32"):
    """(M, PV) of one layer that performs one gradient step: `M = s·diag(I, 0)`, `PV = −(gain/s)·target`, s the scale.

    Exactly (linear attention, any s) or to O(s) (softmax attention). `scale` may be negative.
    """
    features, target = _blocks(tokens or TokenConfig(), dimension, dtype)
    scale, gain_value = jnp.asarray(scale, dtype), jnp.asarray(gain_value, dtype)
    return scale * features, -(gain_value / scale) * target


def linear_descent(gains, dimension, *, tokens=None, dtype="float32", gammas=None):
    """K linear layers that perform K gradient steps of linear regression, or GD++.

    Layer k: `M = diag(I, 0)`, `PV = −diag(γ_k n I, gain_k)`: the target channel of every token goes
    `y ← y − gain_k (1/n) Σ y_i ⟨a_i, a⟩`, so it holds the residual, and a query's channel minus its prediction.
    For softmax regression one layer (`gains = [2η/n]`) is one step from 0; deeper layers would repeat the linear
    residual, which is not its gradient.

    Args:
        gains: (K,) see `gain`.
        dimension: d.
        tokens: `TokenConfig`, default concatenated.
        dtype: of the weights.
        gammas: (K,) γ_k·n, the data step of GD++ in units of the mean `AᵀA/n`; None for plain descent.

    Returns: weights {"KQ", "PV"} of shape K×1×D×D; K = 1 also fits a shared model of any depth.
    Precision: equals the explicit algorithm to 1e-6 (float32), 1e-12 (float64): `test_constructions`.
    Cost: none.
    Source: derived in docs/theory/icl.md; after Proposition 1 of arXiv 2212.07677.

    >>> linear_descent(jnp.ones(2), 3)["PV"].shape
    (2, 1, 4, 4)
    """
    features, target = _blocks(tokens or TokenConfig(), dimension, dtype)
    gains = jnp.asarray(gains, dtype)
    gammas = jnp.zeros_like(gains) if gammas is None else jnp.asarray(gammas, dtype)
    PV = -(gammas[:, None, None] * features[None] + gains[:, None, None] * target[None])
    KQ = jnp.broadcast_to(features[None], PV.shape)
    return {"KQ": KQ[:, None], "PV": PV[:, None]}


def softmax_step(total_gain, scale, dimension, *, heads=1, tokens=None, dtype="float32"):
    """A softmax layer that tends to one gradient step as its logit scale s → 0.

    One head, `M = s·diag(I, 0)`, `PV = −(gain/s)·target`: the query receives
    `−(gain/s) Σ_i softmax_i(s⟨a_q, a_i⟩) y_i = −gain·Cov_i(⟨a_q, a_i⟩, y_i) − (gain/s)·mean(y) + O(s)`.
    With centred targets (softmax regression) that is the gradient step, error O(s). Two heads of logit scale ±s and
    gain ±gain/2 cancel mean(y) and every even power: error O(s²), and for linear regression the limit is the step on
    centred data, `(η/n) Σ (b_i − b̄)⟨a_i, a_q⟩`.

    Args:
        total_gain: see `gain`.
        scale: s > 0.
        dimension: d.
        heads: 1 or 2.
        tokens: `TokenConfig`.
        dtype: of the weights.

    Returns: weights {"KQ", "PV"} of shape 1×heads×D×D.
    Precision: the stated rates are measured in `test_constructions` (slopes 1 and 2).
    Raises: ValueError for another number of heads.
    Source: derived in docs/theory/icl.md.

    >>> softmax_step(1.0, 0.1, 3, heads=2)["KQ"].shape
    (1, 2, 4, 4)
    """
    if heads not in (1, 2):
        raise ValueError(f"heads is {heads}; the construction exists for 1 and 2")
    layers = [
        step_layer(total_gain / heads, sign * scale, dimension, tokens=tokens, dtype=dtype) for sign in (1, -1)[:heads]
    ]
    KQ, PV = (jnp.stack(leaves)[None] for leaves in zip(*layers, strict=True))
    return {"KQ": KQ, "PV": PV}


def copy_and_step(total_gain, sharpness, dimension, code, *, dtype="float32"):
    """Two layers (softmax, linear) that perform one gradient step on *alternating* tokens.

    Layer 1: every context token attends, by position code and with logits `sharpness·⟨code_i, code_j⟩`, to the two
    tokens of its own pair, and receives 2·mean(a_i, 0) = a_i in the scratch channels. Layer 2, linear over 2n tokens,
    compares a query's features with scratch: `Σ_i y_i ⟨scratch_i, a_q⟩/(2n)`, gain doubled. The error falls
    exponentially in the sharpness (`test_constructions`).

    Returns: weights {"KQ", "PV"} of shape 2×1×D×D for `TokenConfig(layout="alternating", code=code, scratch=d)`.

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
