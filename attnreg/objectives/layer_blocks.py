"""Closed forms of a self-attention layer on a few documents: outputs, gradient, and products with its derivatives.

A head h of a document A has queries q = A Q, keys k = A K, values v = A V, the map F = softmax(q kᵀ), z = F v, and adds
z O to the outputs. Along a direction, with t = q̇ kᵀ + q k̇ᵀ and s_j = ⟨F_j, t_j⟩,

    Ḟ = F∘(t − s)        ż = Ḟ v + F v̇        out̓ = ż O + z Ȯ,

and for a cotangent w of the outputs, with g = w Oᵀ and G = F∘(g vᵀ − ⟨g, z⟩),

    q̄ = G k      k̄ = Gᵀ q      v̄ = Fᵀ g      Ō = zᵀ w.

All heads and documents of a block go through one batched product. Axes: b documents, h heads, n queries, m keys,
r rank, s width of the values, c outputs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.problems.layer import LayerWeights
from attnreg.rows import softmax


class Documents(NamedTuple):
    """Some documents: A (b, n, d), B (b, n, c), mask (b, n, n) or None, live (b, n) True on rows that count."""

    A: jax.Array
    B: jax.Array
    mask: jax.Array | None
    live: jax.Array


class Heads(NamedTuple):
    """What the heads make of some documents: queries, keys (b, h, n, r), values, z (b, h, n, s), maps (b, h, n, n)."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    z: jax.Array
    F: jax.Array


def project(A: jax.Array, *matrices: jax.Array) -> list[jax.Array]:
    """A times each (h, d, ·) matrix, (b, h, n, ·), by one product."""
    joined = jnp.concatenate(matrices, axis=2)
    h, d, width = joined.shape
    out = tt.matmul(A.reshape(-1, d), jnp.swapaxes(joined, 0, 1).reshape(d, h * width))
    out = jnp.swapaxes(out.reshape(*A.shape[:2], h, width), 1, 2)
    return jnp.split(out, _ends(matrices), axis=3)


def lift(A: jax.Array, *parts: jax.Array) -> list[jax.Array]:
    """`Aᵀ part` summed over documents for each (b, h, n, ·) part, (h, d, ·): the transpose of `project`."""
    joined = jnp.swapaxes(jnp.concatenate(parts, axis=3), 1, 2)
    h, width = joined.shape[2:]
    # (Gᵀ A)ᵀ: contracting the rows of A as the right operand is a third faster on CPUs than Aᵀ G.
    out = tt.matmul(joined.reshape(-1, h * width).T, A.reshape(-1, A.shape[2]))
    return jnp.split(jnp.swapaxes(out.reshape(h, width, A.shape[2]), 1, 2), _ends(parts), axis=2)


def _ends(arrays) -> list[int]:
    """Where to split a concatenation along the last axis."""
    widths = [array.shape[-1] for array in arrays]
    return [sum(widths[: i + 1]) for i in range(len(widths) - 1)]


def written(z: jax.Array, O: jax.Array | None) -> jax.Array:
    """`Σ_h z_h O_h`, (b, n, c)."""
    return jnp.sum(z, axis=1) if O is None else tt.einsum("bhns,hsc->bnc", z, O)


def read(w: jax.Array, O: jax.Array | None, heads: int) -> jax.Array:
    """`w Oᵀ` for every head, (b, h, n, s): the transpose of `written`."""
    if O is None:
        return jnp.broadcast_to(w[:, None], (w.shape[0], heads, *w.shape[1:]))
    return tt.einsum("bnc,hsc->bhns", w, O)


def run_heads(documents: Documents, weights: LayerWeights) -> Heads:
    """Queries, keys, values, maps and weighted values."""
    q, k, v = project(documents.A, weights.Q, weights.K, weights.V)
    mask = None if documents.mask is None else documents.mask[:, None]
    F = softmax(tt.einsum("bhnr,bhmr->bhnm", q, k), mask)
    return Heads(q, k, v, tt.einsum("bhnm,bhms->bhns", F, v), F)


def residual(documents: Documents, heads: Heads, O: jax.Array | None) -> jax.Array:
    """Outputs minus targets, zero on rows that do not count: (b, n, c)."""
    return jnp.where(documents.live[:, :, None], written(heads.z, O) - documents.B, jnp.zeros((), documents.B.dtype))


def pull_back(A: jax.Array, heads: Heads, O: jax.Array | None, w: jax.Array) -> LayerWeights:
    """The transposed derivative of the outputs, times w (b, n, c)."""
    q, k, v, z, F = heads
    g = read(w, O, q.shape[1])
    G = F * (tt.einsum("bhns,bhms->bhnm", g, v) - jnp.sum(g * z, axis=3, keepdims=True))
    parts = lift(
        A,
        tt.einsum("bhnm,bhmr->bhnr", G, k),
        tt.einsum("bhnm,bhnr->bhmr", G, q),
        tt.einsum("bhnm,bhns->bhms", F, g),
    )
    return LayerWeights._make([*parts, None if O is None else tt.einsum("bhns,bnc->hsc", z, w)])


class Push(NamedTuple):
    """A direction seen by some documents: its projections, t∘F and row sums, ż, and the change of the outputs."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    Ft: jax.Array
    s: jax.Array
    z: jax.Array
    out: jax.Array


def push_forward(A: jax.Array, heads: Heads, O: jax.Array | None, direction: LayerWeights) -> Push:
    """The derivative of the outputs along a direction."""
    q, k, v, z, F = heads
    dq, dk, dv = project(A, direction.Q, direction.K, direction.V)
    t = tt.einsum("bhnr,bhmr->bhnm", jnp.concatenate([dq, q], axis=3), jnp.concatenate([k, dk], axis=3))
    Ft = F * t
    s = jnp.sum(Ft, axis=3, keepdims=True)
    dz = tt.einsum("bhnm,bhms->bhns", Ft, v) - s * z + tt.einsum("bhnm,bhms->bhns", F, dv)
    out = written(dz, O)
    if O is not None:
        out = out + written(z, direction.O)
    return Push(dq, dk, dv, Ft, s, dz, out)


def curve(
    A: jax.Array, heads: Heads, O: jax.Array | None, w: jax.Array, push: Push, dO: jax.Array | None
) -> LayerWeights:
    """`pull_back` of a fixed w, differentiated along a direction: what the exact Hessian adds to Gauss–Newton."""
    q, k, v, z, F = heads
    g = read(w, O, q.shape[1])
    dF = push.Ft - F * push.s
    inner = tt.einsum("bhns,bhms->bhnm", g, v) - jnp.sum(g * z, axis=3, keepdims=True)
    G = F * inner
    moved = tt.einsum("bhns,bhms->bhnm", g, push.v) - jnp.sum(g * push.z, axis=3, keepdims=True)
    rest = tt.einsum("bhnm,bhns->bhms", dF, g)
    if dO is not None:
        dg = read(w, dO, q.shape[1])
        moved = moved + tt.einsum("bhns,bhms->bhnm", dg, v) - jnp.sum(dg * z, axis=3, keepdims=True)
        rest = rest + tt.einsum("bhnm,bhns->bhms", F, dg)
    dG = dF * inner + F * moved
    parts = lift(
        A,
        tt.einsum("bhnm,bhmr->bhnr", dG, k) + tt.einsum("bhnm,bhmr->bhnr", G, push.k),
        tt.einsum("bhnm,bhnr->bhmr", dG, q) + tt.einsum("bhnm,bhnr->bhmr", G, push.q),
        rest,
    )
    return LayerWeights._make([*parts, None if O is None else tt.einsum("bhns,bnc->hsc", push.z, w)])
