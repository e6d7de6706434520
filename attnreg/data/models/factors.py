"""The true factors of a layer: what a regression on its inputs has to find, as NumPy float64.

Head i with group `j = i // (h // g)` computes, on what its projections read, A (n, d),

    maps `softmax(R(A Q_i + q_bias_i) R(A K_j + k_bias_j)ᵀ)`,   output `maps (A V_j + v_bias_j) O_i`,

where R turns rows by their position (`attnreg.data.models.rotary.rotate` with the frequencies of the config; the
identity where there are none). The scale of the logits is folded into Q and q_bias.
"""

from typing import NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from attnreg.data.models.parameters import Dense, Model, Norm
from attnreg.problems.checks import ProblemError, check_choice, check_integer
from attnreg.problems.layer import LayerWeights

FOLDS = ("auto", "norm", "column")


class LayerFactors(NamedTuple):
    """The weights of one layer as they are: keys and values once a group, biases apart.

    Attributes:
        Q: (h, d, w) with the scale of the logits folded in, like q_bias (h, w).
        K, V: (g, d, w). k_bias, v_bias: (g, w).
        O: (h, w, d). o_bias: (d,) is added once, to the sum of all heads.
        q_bias, k_bias, v_bias, o_bias: None where the model has none.
    """

    Q: np.ndarray
    K: np.ndarray
    V: np.ndarray
    O: np.ndarray
    q_bias: np.ndarray | None
    k_bias: np.ndarray | None
    v_bias: np.ndarray | None
    o_bias: np.ndarray | None


def layer_factors(model: Model, layer: int) -> LayerFactors:
    """The weights of layer `layer`, from 0, in NumPy float64.

    Precision: the weights as they are read, the scale multiplied in float64 (tests/data/models/test_factors.py).

    Raises:
        ProblemError: there is no such layer.
    """
    config = model.config
    check_integer("layer", layer, at_least=0, at_most=config.layers - 1)
    found = model.parameters.layers[layer]
    Q, q_bias = _per_head(found.query, config.heads, config.scale)
    K, k_bias = _per_head(found.key, config.groups)
    V, v_bias = _per_head(found.value, config.groups)
    O = np.asarray(found.output.w, np.float64).reshape(config.heads, config.head_width, -1)
    o_bias = None if found.output.b is None else np.asarray(found.output.b, np.float64)
    return LayerFactors(Q, K, V, O, q_bias, k_bias, v_bias, o_bias)


def layer_weights(model: Model, layer: int, *, fold: str = "auto") -> LayerWeights:
    """The weights of a layer as the regression has them: one Q, K, V, O a head, biases inside, in NumPy float64.

    Formula: `A W + 1 bᵀ = A (W + u bᵀ)` for inputs with `A u = 1`, which the outputs of a layer norm have
    (`ones_direction`). Those of an RMS norm have no such u: there the inputs take a column of ones, `[A 1]`, and the
    biases are a last row of the weights. The keys and values of a group are repeated for each of its heads; the bias
    of the output is left out: the heads add up to what the layer writes before it.

    Args:
        model: from `attnreg.data.models.load_model`.
        layer: from 0.
        fold: "norm" asks for u and "column" for the row, which changes d into d + 1; "auto" takes neither where there
            is no bias, and u otherwise.

    Returns:
        Q, K, V (h, d, w), or (h, d + 1, w) for "column", and O (h, w, d).

    Raises:
        ProblemError: no such layer, or biases that nothing can be folded into; the message says what to do.
    """
    check_choice("fold", fold, FOLDS)
    factors = layer_factors(model, layer)
    biased = any(bias is not None for bias in (factors.q_bias, factors.k_bias, factors.v_bias))
    u = norm_ones(model, layer) if fold == "norm" or (fold == "auto" and biased) else None

    def whole(W: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        b = np.zeros((W.shape[0], W.shape[2])) if b is None else b
        if fold == "column":
            W = np.concatenate([W, b[:, None, :]], axis=1)
        elif u is not None:
            W = W + u[None, :, None] * b[:, None, :]
        return np.repeat(W, len(factors.Q) // len(W), axis=0)

    biases = (factors.q_bias, factors.k_bias, factors.v_bias)
    parts = [whole(W, b) for W, b in zip(factors[:3], biases, strict=True)]
    return LayerWeights._make([*parts, factors.O])


def norm_ones(model: Model, layer: int) -> np.ndarray:
    """The vector u (d,) with `A u = 1` for every input A of a layer's projections, in float64.

    Raises:
        ProblemError: they come from an RMS norm, or from a layer norm without such a vector.
    """
    norm = norm_in_front(model, layer)
    if model.config.norm != "layer" or norm.beta is None:
        raise ProblemError(
            f"fold: the biases of a {model.config.family} cannot be folded into its weights, because its norm has no "
            f"constant direction: pass fold='column' and append a column of ones to the inputs, or take layer_factors"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.asarray(ones_direction(Norm._make(np.asarray(part, np.float64) for part in norm)))
    if not np.all(np.isfinite(u)):
        raise ProblemError(
            "fold: the norm in front of this layer has zeros in its scale, or shifts that cancel: pass fold='column' "
            "and append a column of ones to the inputs"
        )
    return u


def norm_in_front(model: Model, layer: int) -> Norm:
    """The norm whose output the projections of a layer read: its own, or the one behind what is below."""
    parameters = model.parameters
    if model.config.norm_first:
        return parameters.layers[layer].attention_norm
    found = parameters.layers[layer - 1].output_norm if layer else parameters.norm
    if found is None:
        raise ProblemError("fold: nothing is normalised in front of this layer; take layer_factors")
    return found


def ones_direction(norm: Norm) -> Array:
    """The vector u (width,) with ``H u = 1`` for every output H of a layer norm.

    Formula: ``u_i = 1/(γ_i c)`` with ``c = Σ β_i/γ_i``.

    Precision: |H u − 1| is eps · |u|·|H| large: 1e-14 in float64, 1e-6 in float32 (tests/data/test_heads.py).

    Source: derived in docs/guides/real_heads.md.

    Example:
        >>> norm = Norm(gamma=np.array([1.0, 2.0, 4.0]), beta=np.array([1.0, 0.0, 4.0]))
        >>> standardised = np.array([1.0, -2.0, 1.0])
        >>> float((norm.gamma * standardised + norm.beta) @ ones_direction(norm))
        1.0
    """
    if norm.beta is None:
        raise ProblemError("this norm shifts nothing: no vector is constant on its outputs")
    return 1.0 / (norm.gamma * (norm.beta / norm.gamma).sum())


def _per_head(dense: Dense, heads: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray | None]:
    """A projection's matrix (heads, d, w) and bias (heads, w) or None."""
    w = _split(dense.w, heads, scale)
    return w.transpose(1, 0, 2), None if dense.b is None else _split(dense.b, heads, scale)


def _split(x: Array | ArrayLike, heads: int, scale: float) -> np.ndarray:
    x = np.asarray(x, np.float64) * scale
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
