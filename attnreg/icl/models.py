"""Self-attention learners: one family, from one linear layer to deep softmax models with heads, MLP and layer norm.

Every layer adds to token e_j what its heads read from the context tokens e_1…e_n (context only: a query is
never read, so queries do not see each other):

    e_j ← e_j + Σ_h P_h V_h Σ_i weight_ij e_i,   linear: s_ij/n,   softmax: softmax_i(s_ij),   s_ij = ⟨e_j, M_h e_i⟩.

A query's logit is minus the change of its target channel (the channel holds a residual, as in arXiv 2212.07677).
The products M = QᵀK and PV are formed before the tokens are touched (exact, D³ instead of n D² flops), and the
last layer is evaluated for the query rows, and for the channels the loss reads, only.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attnreg.icl import draws
from attnreg.icl.tokens import TokenConfig, tokenise

PRECISION = "highest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One architecture; hashable, static.

    Attributes:
        attention: kind of every layer, "linear", "softmax" or "mix" (a learned gate between both).
        heads: heads per layer.
        shared: one set of weights applied len(attention) times (needs one kind).
        parametrisation: "merged" learns M and PV; "factored" learns Q, K, P, V and multiplies them. The functions
            represented are the same (key_size ≥ D), the training dynamics are not: see docs/theory/icl.md.
        key_size: rows of Q, K, V when factored; 0 means D.
        mlp: hidden units of a gelu MLP after each attention, 0 for none.
        layer_norm: normalise tokens before attention and MLP.
        init_scale: standard deviation of the initial weights.
        tokens: how a document becomes tokens.
    """

    attention: tuple[str, ...]
    heads: int = 1
    shared: bool = False
    parametrisation: Literal["merged", "factored"] = "merged"
    key_size: int = 0
    mlp: int = 0
    layer_norm: bool = False
    init_scale: float = 0.02
    tokens: TokenConfig = TokenConfig()  # noqa: RUF009 (frozen, so sharing the default is safe)

    def __post_init__(self):
        """Refuse unknown kinds and contradictory options."""
        if not self.attention or not set(self.attention) <= {"linear", "softmax", "mix"}:
            raise ValueError(f"attention is {self.attention!r}; it must be a tuple of 'linear', 'softmax' or 'mix'")
        if self.shared and len(set(self.attention)) > 1:
            raise ValueError("shared weights need the same kind of attention in every layer")
        if self.parametrisation not in ("merged", "factored"):
            raise ValueError(f"parametrisation is {self.parametrisation!r}; it must be 'merged' or 'factored'")
        if self.heads < 1 or self.key_size < 0 or self.mlp < 0 or self.init_scale <= 0:
            raise ValueError("heads must be at least 1, key_size and mlp not negative, init_scale positive")

    @property
    def depth(self):
        """Number of layers applied."""
        return len(self.attention)

    @property
    def layers(self):
        """Number of distinct layers of weights."""
        return 1 if self.shared else self.depth


class Attention(NamedTuple):
    """The merged weights: KQ is M (L×H×D×D, `s_ij = e_jᵀ M e_i`), PV (L×H×D×D), gate (L×H, for "mix")."""

    KQ: jax.Array
    PV: jax.Array
    gate: jax.Array


def init(key, config, dimension, dtype, *, scale=None):
    """Random weights, a dict of arrays.

    Args:
        key: a typed key.
        config: `ModelConfig`.
        dimension: d of the documents.
        dtype: dtype of the weights.
        scale: overrides `config.init_scale` (traced; a sweep over it compiles once).

    Returns: dict with "KQ", "PV" (merged) or "Q", "K", "P", "V" (factored), "gate", and "mlp_in", "mlp_out" if any.
    Precision: exact draws; MLP weights have the usual 1/√fan-in.
    Cost: 2 L H D² (merged) or 4 L H D·key_size (factored) draws.

    >>> import jax
    >>> weights = init(jax.random.key(0), ModelConfig(attention=("linear",)), 3, "float32")
    >>> weights["KQ"].shape
    (1, 1, 4, 4)
    """
    D, L, H = config.tokens.width(dimension), config.layers, config.heads
    scale = jnp.asarray(config.init_scale if scale is None else scale, dtype)
    inner = config.key_size or D
    factored = config.parametrisation == "factored"
    shapes = (
        {"Q": (inner, D), "K": (inner, D), "P": (D, inner), "V": (inner, D)}
        if factored
        else {"KQ": (D, D), "PV": (D, D)}
    )
    *keys, of_in, of_out = jax.random.split(key, len(shapes) + 2)
    weights = {
        name: scale * draws.normal(k, (L, H, *shape), dtype)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    if "mix" in config.attention:
        weights["gate"] = jnp.zeros((L, H), dtype)
    if config.mlp:
        weights["mlp_in"] = draws.normal(of_in, (L, D, config.mlp), dtype) / D**0.5
        weights["mlp_out"] = scale * draws.normal(of_out, (L, config.mlp, D), dtype)
    return weights


def merge(weights):
    """The products the function depends on: `M = QᵀK`, `PV`; exact for linear and softmax attention.

    >>> import jax
    >>> config = ModelConfig(attention=("softmax",), parametrisation="factored", key_size=7)
    >>> merge(init(jax.random.key(0), config, 3, "float32")).PV.shape
    (1, 1, 4, 4)
    """
    if "KQ" in weights:
        KQ, PV = weights["KQ"], weights["PV"]
    else:
        KQ = jnp.einsum("lhkd,lhke->lhde", weights["Q"], weights["K"], precision=PRECISION)
        PV = jnp.einsum("lhdk,lhke->lhde", weights["P"], weights["V"], precision=PRECISION)
    gate = weights.get("gate", jnp.zeros(KQ.shape[:2], KQ.dtype))
    return Attention(KQ, PV, gate)


def _dot(x, y):
    return jnp.matmul(x, y, precision=PRECISION)


def _normalise(tokens, config):
    if not config.layer_norm:
        return tokens
    centred = tokens - jnp.mean(tokens, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def _head(kind, M, values, gate, readers, context):
    """What one head adds to `readers` (r×D): Σ_i weight_ij values_i, with values = context·PVᵀ (n×c)."""
    n = context.shape[0]

    def linear():
        # Associativity: contextᵀ values first, so the r×n scores are never formed.
        return _dot(readers, _dot(M, _dot(context.T, values) / n))

    def softmax():
        scores = _dot(_dot(readers, M), context.T)
        return _dot(jax.nn.softmax(scores, axis=-1), values)

    if kind == "linear":
        return linear()
    if kind == "softmax":
        return softmax()
    share = jax.nn.sigmoid(gate)
    return (1 - share) * linear() + share * softmax()


def _attend(kind, attention, layer, readers, context, channel=slice(None)):
    """Sum over heads of what `readers` receive in `channel` (a slice of token channels)."""

    def head(h):
        values = _dot(context, attention.PV[layer, h, channel].T)
        return _head(kind, attention.KQ[layer, h], values, attention.gate[layer, h], readers, context)

    return sum((head(h) for h in range(1, attention.KQ.shape[1])), start=head(0))


def _mlp(weights, layer, tokens, config):
    if not config.mlp:
        return tokens
    hidden = jax.nn.gelu(_dot(_normalise(tokens, config), weights["mlp_in"][layer]))
    return tokens + _dot(hidden, weights["mlp_out"][layer])


def logits(weights, config, document, queries=None):
    """Logits of the query rows of one document: the model's answer before the softmax (softmax task) or the answer.

    Args:
        weights: as from `init`.
        config: `ModelConfig`.
        document: one `Documents` without batch axis.
        queries: m×d, replaces `document.queries` (to differentiate with respect to a query).

    Returns: (m,) logits.
    Precision: matmuls at the highest precision; equal to the all-tokens reference with separate projections to
        100 eps (`test_models`).
    Cost, per document: hidden layers n² D (softmax) or n D² (linear); last layer (n+m)D (linear), n m D (softmax).
    Raises: TypeError/ValueError from JAX when shapes disagree.

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> config = ModelConfig(attention=("linear", "softmax"), heads=2)
    >>> weights = init(jax.random.key(0), config, 3, "float32")
    >>> task = TaskConfig(problem="linear", dimension=3, length=5, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> logits(weights, config, document).shape
    (4,)
    """
    attention = merge(weights)
    queries = document.queries if queries is None else queries
    context, asking = tokenise(config.tokens, document.context, document.targets, queries)
    y = config.tokens.target_channel(queries.shape[-1])
    start = asking[:, y]
    for depth, kind in enumerate(config.attention):
        layer = 0 if config.shared else depth
        read, ask = _normalise(context, config), _normalise(asking, config)
        if depth + 1 == config.depth and not config.mlp:
            added = _attend(kind, attention, layer, ask, read, slice(y, y + 1))
            return start - asking[:, y] - added[:, 0]
        asking = _mlp(weights, layer, asking + _attend(kind, attention, layer, ask, read), config)
        if depth + 1 < config.depth:
            context = _mlp(weights, layer, context + _attend(kind, attention, layer, read, read), config)
    return start - asking[:, y]


def sensitivities(weights, config, document):
    """m×d: the gradient of each query's logit with respect to that query's own features.

    A query is read by nobody, so the gradient of the sum of the logits has exactly these rows.
    """

    def total(queries):
        return jnp.sum(logits(weights, config, document, queries))

    return jax.grad(total)(document.queries)


def answer(weights, config, documents, *, block=0):
    """B×m logits and B×m×d sensitivities of a batch of documents, `block` documents at a time (0: all at once)."""

    def one(document):
        def total(queries):
            found = logits(weights, config, document, queries)
            return jnp.sum(found), found

        slopes, found = jax.grad(total, has_aux=True)(document.queries)
        return found, slopes

    return jax.lax.map(one, documents, batch_size=block or documents.targets.shape[0])


def parameter_count(weights):
    """Number of scalars in the weights."""
    return optax.tree.size(weights)
