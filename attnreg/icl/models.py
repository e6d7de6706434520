"""Self-attention learners: one family, from one linear layer to deep softmax models with heads.

A document becomes one token per context row, `(a_i, y_i)`, and one per query, `(a_q, 0)`: D = d + 1 channels. Every
layer adds to token e_j what its heads read from the context tokens e_1…e_n (context only: a query is never read, so
queries do not see each other):

    e_j ← e_j + Σ_h P_h V_h Σ_i weight_ij e_i,   linear: s_ij/n,   softmax: softmax_i(s_ij),   s_ij = ⟨e_j, M_h e_i⟩.

A query's logit is minus the change of its last channel (the channel holds a residual, as in arXiv 2212.07677).
The products M = QᵀK and PV are formed before the tokens are touched (exact, D³ instead of n D² flops), and the
last layer is evaluated for the query rows, and for the channel the loss reads, only.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import draws
from attnreg.icl.tasks import Documents
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError, check_choice, check_flag, check_integer, check_number

ATTENTION = ("linear", "softmax")
PARAMETRISATIONS = ("merged", "factored")
TARGETS = ("plain", "simplex")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One architecture; hashable, static.

    Attributes:
        attention: kind of every layer, "linear" or "softmax".
        heads: heads per layer.
        shared: one set of weights applied len(attention) times (needs one kind).
        parametrisation: "merged" learns M and PV; "factored" learns Q, K, P, V (each (D, D)) and multiplies them. The
            functions represented are the same, the training dynamics are not: see docs/theory/icl.md.
        init_scale: standard deviation of the initial weights.
        targets: what a token carries of its target b_i: "plain" b_i (linear regression), or "simplex" `n b_i − 1`
            (softmax regression), which is centred and of order one.

    Raises: ProblemError for a field of another type, out of range, or for an unknown name.
    """

    attention: tuple[str, ...]
    heads: int = 1
    shared: bool = False
    parametrisation: Literal["merged", "factored"] = "merged"
    init_scale: float = 0.05
    targets: Literal["plain", "simplex"] = "plain"

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
        check_number("init_scale", self.init_scale, above=0)
        check_choice("targets", self.targets, TARGETS)

    @property
    def depth(self) -> int:
        """Number of layers applied."""
        return len(self.attention)

    @property
    def layers(self) -> int:
        """Number of distinct layers of weights."""
        return 1 if self.shared else self.depth


class Attention(NamedTuple):
    """The merged weights of L layers with H heads: KQ is M (L, H, D, D), `s_ij = e_jᵀ M e_i`, PV (L, H, D, D)."""

    KQ: jax.Array
    PV: jax.Array


def init(key: jax.Array, model: ModelConfig, dimension: int, dtype: str) -> dict[str, jax.Array]:
    """Random weights of standard deviation `model.init_scale`: "KQ", "PV", or "Q", "K", "P", "V" when factored.

    Args:
        key: a typed key.
        model: `ModelConfig`.
        dimension: d of the documents.
        dtype: dtype of the weights.

    Returns: dict of arrays (L, H, D, D), D = d + 1.
    Cost: 2 L H D² (merged) or 4 L H D² (factored) draws.

    >>> import jax
    >>> weights = init(jax.random.key(0), ModelConfig(attention=("linear",)), 3, "float32")
    >>> weights["KQ"].shape
    (1, 1, 4, 4)
    """
    shape = (model.layers, model.heads, dimension + 1, dimension + 1)
    names = ("Q", "K", "P", "V") if model.parametrisation == "factored" else ("KQ", "PV")
    scale = jnp.asarray(model.init_scale, dtype)
    keys = jax.random.split(key, len(names))
    return {name: scale * draws.normal(k, shape, dtype) for k, name in zip(keys, names, strict=True)}


def merge(weights: dict[str, jax.Array]) -> Attention:
    """The products (L, H, D, D) that the function depends on: `M = QᵀK`, `PV`; exact for both kinds of attention.

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


def carried(model: ModelConfig, targets: jax.Array) -> jax.Array:
    """What tokens carry of the targets b (…, n), shaped like them: b, or `n b − 1`."""
    return targets if model.targets == "plain" else targets.shape[-1] * targets - 1


def _head(kind: str, M: jax.Array, values: jax.Array, readers: jax.Array, context: jax.Array) -> jax.Array:
    """What one head adds to `readers` (r, D): Σ_i weight_ij values_i, with values = context·PVᵀ (n, c)."""
    if kind == "linear":
        # Associativity: contextᵀ values first, so the (r, n) scores are never formed.
        return tt.matmul(readers, tt.matmul(M, tt.matmul(context.T, values) / context.shape[0]))
    scores = tt.matmul(tt.matmul(readers, M), context.T)
    return tt.matmul(jax.nn.softmax(scores, axis=-1), values)


def _attend(
    kind: str,
    attention: Attention,
    layer: int,
    readers: jax.Array,
    context: jax.Array,
    channel: slice = slice(None),
) -> jax.Array:
    """Sum over heads of what `readers` receive in `channel` (a slice of token channels)."""

    def head(h):
        values = tt.matmul(context, attention.PV[layer, h, channel].T)
        return _head(kind, attention.KQ[layer, h], values, readers, context)

    return sum((head(h) for h in range(1, attention.KQ.shape[1])), start=head(0))


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
    Precision: matmuls at the highest precision; equal to the all-tokens reference with separate projections to
        200 eps (`test_models`).
    Cost, per document: hidden layers n² D (softmax) or n D² (linear); last layer (n+m)D (linear), n m D (softmax).
    Raises: TypeError/ValueError from JAX when shapes disagree.

    >>> import jax
    >>> from attnreg.icl.tasks import TaskConfig, sample
    >>> model = ModelConfig(attention=("linear", "softmax"), heads=2)
    >>> weights = init(jax.random.key(0), model, 3, "float32")
    >>> task = TaskConfig(kind="linear", dimension=3, length=5, queries=4)
    >>> document = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(1), task, 1))
    >>> logits(weights, model, document).shape
    (4,)
    """
    attention = merge(weights)
    queries = document.queries if queries is None else queries
    context = jnp.concatenate([document.context, carried(model, document.targets)[:, None]], axis=1)
    asking = jnp.concatenate([queries, jnp.zeros_like(queries[:, :1])], axis=1)
    start = asking[:, -1]
    for depth, kind in enumerate(model.attention[:-1]):
        layer = 0 if model.shared else depth
        asking = asking + _attend(kind, attention, layer, asking, context)
        context = context + _attend(kind, attention, layer, context, context)
    added = _attend(model.attention[-1], attention, model.layers - 1, asking, context, slice(-1, None))
    return start - asking[:, -1] - added[:, 0]


def answer(
    weights: dict[str, jax.Array], model: ModelConfig, documents: Documents, *, block: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Logits (B, m) and sensitivities (B, m, d), the gradient of each logit in its own query, of B documents.

    A query is read by nobody, so the gradient of the sum of a document's logits has exactly these rows.

    Args:
        weights: as from `init`.
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
