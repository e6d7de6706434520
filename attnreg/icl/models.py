"""Self-attention learners: one family, from one linear layer to deep softmax models with heads, MLP and layer norm.

`tokens` turns a document into context tokens e_1…e_n and query tokens, of D channels. Every layer adds to token e_j
what its heads read from the context tokens (context only: a query is never read, so queries do not see each other):

    e_j ← e_j + Σ_h P_h V_h Σ_i weight_ij e_i,   linear: s_ij/n,   softmax: softmax_i(s_ij),   s_ij = ⟨e_j, M_h e_i⟩.

A query's logit is minus the change of its target channel (the channel holds a residual, as in arXiv 2212.07677).
The products M = QᵀK and PV are formed before the tokens are touched (exact, D³ instead of n D² flops), and the
last layer is evaluated for the query rows, and for the channel the loss reads, only.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import draws
from attnreg.icl.tasks import Documents
from attnreg.icl.tokens import TokenConfig, tokenise
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError, check_choice, check_flag, check_integer, check_number
from attnreg.problems.reprs import compact_repr

ATTENTION = ("linear", "softmax", "mix")
PARAMETRISATIONS = ("merged", "factored")
STARTS = ("away", "to", "random")
_VALUES = 4.0  # size of the value paths of a model at the start, all layers together


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One architecture; hashable, static.

    Attributes:
        attention: kind of every layer, "linear", "softmax" or "mix" (a learned gate a head between both).
        heads: heads per layer.
        shared: one set of weights applied len(attention) times (needs one kind).
        parametrisation: "merged" learns M and PV; "factored" learns Q, K, P, V (each (D, D)) and multiplies them. The
            functions represented are the same, the training dynamics are not: see docs/theory/icl.md.
        mlp: hidden units of a gelu MLP after each attention, 0 for none.
        layer_norm: whether tokens are normalised before attention and MLP.
        start: sign of the value path PV at the start, which settles the branch of softmax attention: "away" or "to" for
            the first head, the next ones in turn; or "random" for weights that are all small (docs/theory/icl.md).
        init_scale: standard deviation of the initial queries and keys (of all weights where start="random").
        tokens: how a document becomes tokens.

    Raises: ProblemError for a field of another type, out of range, or for an unknown name.
    """

    attention: tuple[str, ...]
    heads: int = 1
    shared: bool = False
    parametrisation: Literal["merged", "factored"] = "merged"
    mlp: int = 0
    layer_norm: bool = False
    start: Literal["away", "to", "random"] = "away"
    init_scale: float = 0.05
    tokens: TokenConfig = TokenConfig()  # noqa: RUF009 (frozen, so sharing the default is safe)

    def __post_init__(self) -> None:
        """Refuse unknown kinds and contradictory options."""
        if not isinstance(self.attention, tuple) or not self.attention:
            raise ProblemError(f"attention is {self.attention!r}; it must be a tuple of one kind per layer")
        for kind in self.attention:
            check_choice("attention of a layer", kind, ATTENTION)
        check_integer("heads", self.heads, at_least=1)
        check_flag("shared", self.shared)
        if self.shared and len(set(self.attention)) > 1:
            raise ProblemError(f"attention is {self.attention!r}; shared weights need one kind in all layers")
        check_choice("parametrisation", self.parametrisation, PARAMETRISATIONS)
        check_integer("mlp", self.mlp, at_least=0)
        check_flag("layer_norm", self.layer_norm)
        check_choice("start", self.start, STARTS)
        check_number("init_scale", self.init_scale, above=0)
        if not isinstance(self.tokens, TokenConfig):
            raise ProblemError(f"tokens is {self.tokens!r}; it must be a TokenConfig")

    @property
    def depth(self) -> int:
        """Number of layers applied."""
        return len(self.attention)

    @property
    def layers(self) -> int:
        """Number of distinct layers of weights."""
        return 1 if self.shared else self.depth


@compact_repr
class Attention(NamedTuple):
    """The merged weights of L layers with H heads: KQ is M (L, H, D, D), `s_ij = e_jᵀ M e_i`, PV (L, H, D, D)."""

    KQ: jax.Array
    PV: jax.Array


def init(key: jax.Array, model: ModelConfig, dimension: int, dtype: str) -> dict[str, jax.Array]:
    """Initial weights: "KQ", "PV", or "Q", "K", "P", "V" when factored.

    Queries and keys have standard deviation `model.init_scale`. The value path of a head starts as `PV = ±(4/layers) I`
    with a random rotation for V: no saddle, and the sign decides the branch (docs/theory/icl.md, section 7).

    Args:
        key: a typed key.
        model: `ModelConfig`.
        dimension: d of the documents.
        dtype: dtype of the weights.

    Returns: dict of arrays (L, H, D, D), D = `model.tokens.width(d)`; with "mix" also "gate" (L, H), zero: half of
        either kind; with an MLP of k units "mlp_in" (L, D, k), of standard deviation 1/√D, and "mlp_out" (L, k, D).
    Cost: 2 L H D² (merged) or 4 L H D² (factored) draws, and L H QR decompositions of size D (factored).

    >>> import jax
    >>> weights = init(jax.random.key(0), ModelConfig(attention=("linear",)), 3, "float32")
    >>> weights["KQ"].shape
    (1, 1, 4, 4)
    """
    D, L, H = model.tokens.width(dimension), model.layers, model.heads
    names = ("Q", "K", "P", "V") if model.parametrisation == "factored" else ("KQ", "PV")
    scale = jnp.asarray(model.init_scale, dtype)
    *keys, of_in, of_out = jax.random.split(key, len(names) + 2)
    weights = {name: scale * draws.normal(k, (L, H, D, D), dtype) for k, name in zip(keys, names, strict=True)}
    if model.start != "random":
        # A logit is minus what its token receives: values added (sign +) are attended away from.
        first = 1 if model.start == "away" else -1
        signs = jnp.asarray([first * (-1) ** h for h in range(H)], dtype)[None, :, None, None]
        size = jnp.asarray(_VALUES / model.depth, dtype)
        if "V" in weights:
            V = jnp.sqrt(size) * jnp.linalg.qr(draws.normal(keys[-1], (L, H, D, D), dtype))[0]
            weights |= {"P": signs * jnp.swapaxes(V, -1, -2), "V": V}
        else:
            weights |= {"PV": jnp.broadcast_to(signs * size * jnp.eye(D, dtype=dtype)[None, None], (L, H, D, D))}
    if "mix" in model.attention:
        weights["gate"] = jnp.zeros((L, H), dtype)
    if model.mlp:
        weights["mlp_in"] = draws.normal(of_in, (L, D, model.mlp), dtype) / D**0.5
        weights["mlp_out"] = scale * draws.normal(of_out, (L, model.mlp, D), dtype)
    return weights


def merge(weights: dict[str, jax.Array]) -> Attention:
    """The products of weights (L, H, D, D) that the function depends on: `M = QᵀK`, `PV`; exact for all attention.

    Cost: 4 L H D³ flops when factored, none when merged.

    >>> import jax
    >>> model = ModelConfig(attention=("softmax",), parametrisation="factored")
    >>> merge(init(jax.random.key(0), model, 3, "float32")).PV.shape
    (1, 1, 4, 4)
    """
    if "KQ" in weights:
        return Attention(weights["KQ"], weights["PV"])
    KQ = tt.einsum("lhkd,lhke->lhde", weights["Q"], weights["K"])
    PV = tt.einsum("lhdk,lhke->lhde", weights["P"], weights["V"])
    return Attention(KQ, PV)


def _normalise(tokens: jax.Array, model: ModelConfig) -> jax.Array:
    if not model.layer_norm:
        return tokens
    centred = tokens - jnp.mean(tokens, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


def _head(kind: str, M: jax.Array, values: jax.Array, readers: jax.Array, context: jax.Array) -> jax.Array:
    """What one head adds to `readers` (r, D): Σ_i weight_ij values_i, with values = context·PVᵀ (n, c)."""
    if kind == "linear":
        # Associativity: contextᵀ values first, so the (r, n) scores are never formed.
        return tt.matmul(readers, tt.matmul(M, tt.matmul(context.T, values) / context.shape[0]))
    scores = tt.matmul(tt.matmul(readers, M), context.T)
    return tt.matmul(jax.nn.softmax(scores, axis=-1), values)


def _attend(
    kind: str,
    merged: dict[str, jax.Array],
    layer: int,
    readers: jax.Array,
    context: jax.Array,
    channel: slice = slice(None),
) -> jax.Array:
    """Sum over heads of what `readers` receive in `channel` (a slice of token channels)."""

    def head(h):
        M, values = merged["KQ"][layer, h], tt.matmul(context, merged["PV"][layer, h, channel].T)
        if kind != "mix":
            return _head(kind, M, values, readers, context)
        linear, softmax = (_head(pure, M, values, readers, context) for pure in ("linear", "softmax"))
        share = jax.nn.sigmoid(merged["gate"][layer, h])
        return (1 - share) * linear + share * softmax

    return sum((head(h) for h in range(1, merged["KQ"].shape[1])), start=head(0))


def _mlp(weights: dict[str, jax.Array], layer: int, tokens: jax.Array, model: ModelConfig) -> jax.Array:
    if not model.mlp:
        return tokens
    hidden = jax.nn.gelu(tt.matmul(_normalise(tokens, model), weights["mlp_in"][layer]))
    return tokens + tt.matmul(hidden, weights["mlp_out"][layer])


def logits(
    weights: dict[str, jax.Array], model: ModelConfig, document: Documents, queries: jax.Array | None = None
) -> jax.Array:
    """Logits of the queries of one document: the model's answer before the softmax (softmax task) or the answer.

    Args:
        weights: as from `init`.
        model: `ModelConfig`.
        document: one `Documents` without batch axis.
        queries: (m, d), replaces `document.queries` (to differentiate with respect to a query).

    Returns: (m,) logits.
    Precision: highest in matmuls; equal to all tokens with separate projections to 200 eps (`test_models`).
    Cost, per document: hidden layers n² D (softmax) or n D² (linear), and 2 n D k for an MLP of k units; the last
        layer, without one, (n+m) D (linear) or n m D (softmax).

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> model = ModelConfig(attention=("linear", "softmax"), heads=2)
    >>> weights = init(jax.random.key(0), model, 3, "float32")
    >>> task = TaskConfig(kind="linear", dimension=3, length=5, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> logits(weights, model, document).shape
    (4,)
    """
    merged = weights | merge(weights)._asdict()
    queries = document.queries if queries is None else queries
    context, asking = tokenise(model.tokens, document.context, document.targets, queries)
    y = queries.shape[-1]
    start = asking[:, y]
    for depth, kind in enumerate(model.attention):
        layer, last = 0 if model.shared else depth, depth + 1 == model.depth
        read, ask = _normalise(context, model), _normalise(asking, model)
        if last and not model.mlp:
            added = _attend(kind, merged, layer, ask, read, slice(y, y + 1))
            return start - asking[:, y] - added[:, 0]
        asking = _mlp(merged, layer, asking + _attend(kind, merged, layer, ask, read), model)
        if not last:
            context = _mlp(merged, layer, context + _attend(kind, merged, layer, read, read), model)
    return start - asking[:, y]


def answer(
    weights: dict[str, jax.Array], model: ModelConfig, documents: Documents, *, block: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Logits (B, m) and sensitivities (B, m, d), the gradient of each logit in its own query, of B documents.

    A query is read by nobody, so the gradient of the sum of a document's logits has exactly these rows.

    Args:
        weights: arrays (L, H, D, D), as from `init`.
        model: `ModelConfig`.
        documents: `Documents` of B.
        block: documents evaluated at a time, so that memory stays bounded; 0 for all at once.

    Returns: logits (B, m) and their gradients (B, m, d).
    Cost: about three times that of `logits`.
    """

    def one(document):
        def total(queries):
            found = logits(weights, model, document, queries)
            return jnp.sum(found), found

        slopes, found = jax.grad(total, has_aux=True)(document.queries)
        return found, slopes

    return jax.lax.map(one, documents, batch_size=block or documents.targets.shape[0])
