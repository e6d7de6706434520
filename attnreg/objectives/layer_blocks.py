"""Closed forms of a self-attention layer on a few documents: outputs, gradient, and products with its derivatives.

A head h of a document A has queries q = A Q, keys k = A K, values v = A V, logits s = q kᵀ, the map F = softmax(φ(s)),
z = F v, and adds z O to the outputs; φ is the soft cap, if there is one. Along a direction, with ṡ = q̇ kᵀ + q k̇ᵀ,
t = φ'∘ṡ and m_j = ⟨F_j, t_j⟩,

    Ḟ = F∘(t − m)        ż = Ḟ v + F v̇        out̓ = ż O + z Ȯ,

and for a cotangent w of the outputs, with g = w Oᵀ and G = φ'∘F∘(g vᵀ − ⟨g, z⟩),

    q̄ = G k      k̄ = Gᵀ q      v̄ = Fᵀ g      Ō = zᵀ w.

With rotary positions and a scale of the logits, q is the scaled turn of A Q, k the turn of A K: linear maps, whose
transposes take the cotangents back. Queries that share keys see copies of them, and the copies' cotangents add.

All heads and documents of a block go through one batched product. Axes: b documents, h heads, g key heads, n queries,
m keys, r rank, s width of the values, c outputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.problems.layer import LayerWeights
from attnreg.problems.rotary import Rotation
from attnreg.rows import softmax
from attnreg.rows.capping import capped


class Documents(NamedTuple):
    """Some documents, and how their logits are made: turns, scale and soft cap, or None.

    A (b, n, d), B (b, n, c), mask (b, n, n) or None, live (b, n) True on rows that count.
    """

    A: jax.Array
    B: jax.Array
    mask: jax.Array | None
    live: jax.Array
    rotary: Rotation | None = None
    scale: jax.Array | None = None
    soft_cap: jax.Array | None = None

    def queries(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """Projected queries (b, h, n, r) turned and scaled; `back`: the transposed map."""
        x = x if self.rotary is None else self.rotary.queries(x, back=back)
        return x if self.scale is None else self.scale * x

    def keys(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """Projected keys (b, g, n, r) turned; `back`: the transposed map."""
        return x if self.rotary is None else self.rotary.keys(x, back=back)


class Heads(NamedTuple):
    """What the heads make of some documents: queries, keys (b, h, n, r), values, z (b, h, n, s), maps (b, h, n, n).

    With a soft cap also φ' and φ'' (b, h, n, n).
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    z: jax.Array
    F: jax.Array
    slope: jax.Array | None = None
    bend: jax.Array | None = None


def project(A: jax.Array, *matrices: jax.Array) -> list[jax.Array]:
    """A times each (h, d, ·) matrix, (b, h, n, ·), by one product; each may have its own number of heads."""
    b, n, d = A.shape
    joined = jnp.concatenate([jnp.swapaxes(W, 0, 1).reshape(d, -1) for W in matrices], axis=1)
    out = jnp.split(tt.matmul(A.reshape(-1, d), joined), _ends([W.shape[0] * W.shape[2] for W in matrices]), axis=1)
    return [jnp.swapaxes(x.reshape(b, n, len(W), -1), 1, 2) for x, W in zip(out, matrices, strict=True)]


def lift(A: jax.Array, *parts: jax.Array) -> list[jax.Array]:
    """`Aᵀ part` summed over documents for each (b, h, n, ·) part, (h, d, ·): the transpose of `project`."""
    d = A.shape[2]
    joined = jnp.concatenate([jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1] * x.shape[3]) for x in parts], axis=1)
    # (Gᵀ A)ᵀ: contracting the rows of A as the right operand is a third faster on CPUs than Aᵀ G.
    out = jnp.split(tt.matmul(joined.T, A.reshape(-1, d)), _ends([x.shape[1] * x.shape[3] for x in parts]), axis=0)
    return [jnp.swapaxes(W.reshape(x.shape[1], -1, d), 1, 2) for W, x in zip(out, parts, strict=True)]


def _ends(widths: list[int]) -> list[int]:
    """Where to split a concatenation of these widths."""
    return [sum(widths[: i + 1]) for i in range(len(widths) - 1)]


def shared(x: jax.Array, heads: int) -> jax.Array:
    """Copies (…, h, n, ·) of what key heads have, x (…, g, n, ·), for the h/g queries in a row that share it."""
    return x if x.shape[-3] == heads else jnp.repeat(x, heads // x.shape[-3], axis=-3)


def gathered(x: jax.Array, heads: int) -> jax.Array:
    """The sum over the copies, (…, g, ·, ·) from (…, h, ·, ·): the transpose of `shared`."""
    if x.shape[-3] == heads:
        return x
    return jnp.sum(x.reshape(*x.shape[:-3], heads, -1, *x.shape[-2:]), axis=-3)


def written(z: jax.Array, O: jax.Array | None) -> jax.Array:
    """`Σ_h z_h O_h`, (b, n, c)."""
    return jnp.sum(z, axis=1) if O is None else tt.einsum("bhns,hsc->bnc", z, O)


def read(w: jax.Array, O: jax.Array | None, heads: int) -> jax.Array:
    """`w Oᵀ` for every head, (b, h, n, s): the transpose of `written`."""
    if O is None:
        return jnp.broadcast_to(w[:, None], (w.shape[0], heads, *w.shape[1:]))
    return tt.einsum("bnc,hsc->bhns", w, O)


def _seen(documents: Documents, weights: LayerWeights) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of every head, or how they move along a direction of the weights."""
    q, k, v = project(documents.A, weights.Q, weights.K, weights.V)
    h = q.shape[1]
    return documents.queries(q), shared(documents.keys(k), h), shared(v, h)


def _back(documents: Documents, x: LayerWeights, q: jax.Array, k: jax.Array, v: jax.Array) -> list[jax.Array]:
    """Cotangents of queries, keys and values of every head taken to Q, K and V: the transpose of `_seen`."""
    k, v = gathered(k, len(x.K)), gathered(v, len(x.V))
    return lift(documents.A, documents.queries(q, back=True), documents.keys(k, back=True), v)


def run_heads(documents: Documents, weights: LayerWeights) -> Heads:
    """Queries, keys, values, maps and weighted values."""
    q, k, v = _seen(documents, weights)
    mask = None if documents.mask is None else documents.mask[:, None]
    s, slope, bend = tt.einsum("bhnr,bhmr->bhnm", q, k), None, None
    if documents.soft_cap is not None:
        s, slope, bend = capped(s, None, documents.soft_cap)
    F = softmax(s, mask)
    return Heads(q, k, v, tt.einsum("bhnm,bhms->bhns", F, v), F, slope, bend)


def residual(documents: Documents, heads: Heads, O: jax.Array | None) -> jax.Array:
    """Outputs minus targets, zero on rows that do not count: (b, n, c)."""
    return jnp.where(documents.live[:, :, None], written(heads.z, O) - documents.B, jnp.zeros((), documents.B.dtype))


def _times(x: jax.Array, factor: jax.Array | None) -> jax.Array:
    return x if factor is None else x * factor


def pull_back(documents: Documents, heads: Heads, x: LayerWeights, w: jax.Array) -> LayerWeights:
    """The transposed derivative of the outputs at weights x, times w (b, n, c)."""
    q, k, v, z, F, slope, _ = heads
    g = read(w, x.O, q.shape[1])
    G = _times(F * (tt.einsum("bhns,bhms->bhnm", g, v) - jnp.sum(g * z, axis=3, keepdims=True)), slope)
    parts = _back(
        documents,
        x,
        tt.einsum("bhnm,bhmr->bhnr", G, k),
        tt.einsum("bhnm,bhnr->bhmr", G, q),
        tt.einsum("bhnm,bhns->bhms", F, g),
    )
    return LayerWeights._make([*parts, None if x.O is None else tt.einsum("bhns,bnc->hsc", z, w)])


class Push(NamedTuple):
    """A direction seen by some documents: its projections, t∘F and row sums, ż, and the change of the outputs.

    With a soft cap also φ''∘ṡ.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    Ft: jax.Array
    s: jax.Array
    z: jax.Array
    out: jax.Array
    bent: jax.Array | None


def push_forward(documents: Documents, heads: Heads, x: LayerWeights, direction: LayerWeights) -> Push:
    """The derivative of the outputs at weights x along a direction."""
    q, k, v, z, F, slope, bend = heads
    dq, dk, dv = _seen(documents, direction)
    ds = tt.einsum("bhnr,bhmr->bhnm", jnp.concatenate([dq, q], axis=3), jnp.concatenate([k, dk], axis=3))
    Ft = F * _times(ds, slope)
    s = jnp.sum(Ft, axis=3, keepdims=True)
    dz = tt.einsum("bhnm,bhms->bhns", Ft, v) - s * z + tt.einsum("bhnm,bhms->bhns", F, dv)
    out = written(dz, x.O)
    if x.O is not None:
        out = out + written(z, direction.O)
    return Push(dq, dk, dv, Ft, s, dz, out, None if bend is None else bend * ds)


def curve(
    documents: Documents, heads: Heads, x: LayerWeights, w: jax.Array, push: Push, dO: jax.Array | None
) -> LayerWeights:
    """`pull_back` of a fixed w, differentiated along a direction: what the exact Hessian adds to Gauss–Newton."""
    q, k, v, z, F, slope, _ = heads
    g = read(w, x.O, q.shape[1])
    dF = push.Ft - F * push.s
    inner = tt.einsum("bhns,bhms->bhnm", g, v) - jnp.sum(g * z, axis=3, keepdims=True)
    G = F * inner
    moved = tt.einsum("bhns,bhms->bhnm", g, push.v) - jnp.sum(g * push.z, axis=3, keepdims=True)
    rest = tt.einsum("bhnm,bhns->bhms", dF, g)
    if dO is not None:
        dg = read(w, dO, q.shape[1])
        moved = moved + tt.einsum("bhns,bhms->bhnm", dg, v) - jnp.sum(dg * z, axis=3, keepdims=True)
        rest = rest + tt.einsum("bhnm,bhns->bhms", F, dg)
    dG = _times(dF * inner + F * moved, slope)
    if push.bent is not None:
        dG, G = dG + push.bent * G, _times(G, slope)
    parts = _back(
        documents,
        x,
        tt.einsum("bhnm,bhmr->bhnr", dG, k) + tt.einsum("bhnm,bhmr->bhnr", G, push.k),
        tt.einsum("bhnm,bhnr->bhmr", dG, q) + tt.einsum("bhnm,bhnr->bhmr", G, push.q),
        rest,
    )
    return LayerWeights._make([*parts, None if x.O is None else tt.einsum("bhns,bnc->hsc", push.z, w)])
