"""The one-layer residual on a block of rows, and its derivatives in the logits and in Y, in closed form.

Per row j with logits s: `f = softmax(s)`, `z = fᵀA3` (d3), residual `r = zY − b` (c), `q = A3 Y r` (m), `μ = ⟨f, q⟩`,
`p = f∘(q − μ)`. Then

    gradient in s      2p
    Hessian in s       2[ G A3 Y Yᵀ A3ᵀ G + diag(p) − p fᵀ − f pᵀ ],   G = diag(f) − f fᵀ
    Gauss–Newton in s  2 G A3 Y Yᵀ A3ᵀ G
    gradient in Y      2 z rᵀ

and everything that couples s to Y passes through `N_j = A2ᵀ G_j A3` (d2, d3). Derived in docs/theory/one_layer.md.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.streaming import Block
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.rows import logit_regularizer, softmax
from attnreg.rows.curvature import Curvature, RankTwo


class Rows(NamedTuple):
    """One block of rows at one (X, Y): f (r, m), z (r, d3), residual (r, c), q (r, m), mu (r,), p (r, m).

    values: the block's A3 (m, d3). penalty: the papers' regularizer as `RowTerms`, or None.
    """

    block: Block
    values: jax.Array
    f: jax.Array
    z: jax.Array
    residual: jax.Array
    q: jax.Array
    mu: jax.Array
    p: jax.Array
    penalty: Any


def streamable(problem: OneLayerRegression) -> Any:
    """The problem as `attnreg.lift.streaming` takes it: that reads A1, A2, B, mask, causal, weight and sizes only."""
    return problem


def values_of(problem: OneLayerRegression, block: Block) -> jax.Array:
    """A3 of the document a block belongs to, (m, d3)."""
    return jax.lax.dynamic_index_in_dim(problem.A3, block.document, keepdims=False)


def attend(block: Block, X: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits s, attention f and attended values z = f A3 of a block."""
    s = tt.logits(block.query, X, block.keys)
    f = softmax(s, block.mask)
    return s, f, tt.matmul(f, values)


def on_rows(problem: OneLayerRegression, params: Unknowns, block: Block) -> Rows:
    """All row quantities of a block. Cost: r·m·(d2 + 2·d3) multiplications and one exp per entry."""
    values = values_of(problem, block)
    s, f, z = attend(block, params.X, values)
    residual = tt.matmul(z, params.Y) - block.b
    q = through_values(residual, params.Y, values)
    # ⟨f, q⟩ = ⟨zY, r⟩: exact, and cheaper by a factor m / c.
    mu = jnp.sum(tt.matmul(z, params.Y) * residual, axis=1)
    penalty = None if block.weight is None else logit_regularizer(s, block.weight, block.mask)
    return Rows(block, values, f, z, residual, q, mu, f * (q - mu[:, None]), penalty)


def through_values(r: jax.Array, Y: jax.Array, values: jax.Array) -> jax.Array:
    """`r (A3 Y)ᵀ` (rows, m), through the narrower of d3 and c."""
    if Y.shape[1] < Y.shape[0]:
        return tt.matmul(r, tt.matmul(values, Y).T)
    return tt.matmul(tt.matmul(r, Y.T), values.T)


def value(rows: Rows) -> jax.Array:
    """Loss of the block, penalty included; rows an earlier block has done count nothing."""
    each = jnp.sum(rows.residual**2, axis=1)
    if rows.penalty is not None:
        each = each + rows.penalty.value
    return jnp.sum(jnp.where(rows.block.fresh, each, jnp.zeros_like(each)))


def fresh_only(rows: Rows, x: jax.Array) -> jax.Array:
    """`x` (r, …) with the rows that an earlier block has done set to zero."""
    return jnp.where(rows.block.fresh.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))


def gradient(rows: Rows) -> Unknowns:
    """The block's part of (∇_X, ∇_Y) = (Σ_j a_j (2A2ᵀp_j)ᵀ, 2 ZᵀR)."""
    gamma = 2 * rows.p
    if rows.penalty is not None:
        gamma = gamma + rows.penalty.gradient
    dX = tt.lift_gradient(rows.block.lift, gamma, rows.block.keys)
    return Unknowns(dX, 2 * tt.matmul(fresh_only(rows, rows.z).T, rows.residual))


def rounding(rows: Rows, params: Unknowns) -> Unknowns:
    """Rounding errors of the block's part of the gradient: eps of every term, and of a logit eps·(1 + |s|)."""
    block, Y, eps = rows.block, params.Y, jnp.finfo(rows.f.dtype).eps
    s = jnp.abs(tt.logits(block.query, params.X, block.keys))
    # A residual is wrong by eps of the two outputs it compares.
    r = jnp.abs(rows.residual) + jnp.abs(tt.matmul(rows.z, Y)) + jnp.abs(block.b)
    q = through_values(r, jnp.abs(Y), jnp.abs(rows.values))
    gamma = 2 * rows.f * (q + jnp.sum(rows.f * q, axis=1, keepdims=True)) * (1 + s)
    if rows.penalty is not None:
        gamma = gamma + jnp.abs(rows.penalty.gradient)
    dX = tt.lift_gradient(jnp.abs(block.lift), eps * gamma, jnp.abs(block.keys))
    return Unknowns(dX, 2 * eps * tt.matmul(jnp.abs(fresh_only(rows, rows.z)).T, r))


def cross_blocks(rows: Rows) -> jax.Array:
    """`N_j = A2ᵀ G_j A3 = Σ_i f_ji k_i v_iᵀ − (A2ᵀf_j) z_jᵀ`, (r, d2, d3). Cost: r·m·d2·d3 multiplications."""
    keys, values = rows.block.keys, rows.values
    (m, d2), d3 = keys.shape, values.shape[1]

    def step(start, fresh):
        size = fresh.shape[0]
        k = jax.lax.dynamic_slice_in_dim(keys, start, size)
        v = jax.lax.dynamic_slice_in_dim(values, start, size)
        f = jax.lax.dynamic_slice_in_dim(rows.f, start, size, axis=1)
        products = (k[:, :, None] * v[:, None, :]).reshape(size, d2 * d3)
        return tt.matmul(jnp.where(fresh, f, jnp.zeros((), f.dtype)), products)

    most = max(1, tt.SQUARE_ENTRIES // (d2 * d3))
    total = tt.over_keys(step, jnp.zeros((rows.f.shape[0], d2 * d3), keys.dtype), m, most)
    return total.reshape(-1, d2, d3) - tt.matmul(rows.f, keys)[:, :, None] * rows.z[:, None, :]


def logit_curvature(rows: Rows) -> Curvature:
    """The part of the logit Hessian that is not Gauss–Newton: `2[diag(p) − p fᵀ − f pᵀ]` plus the regularizer's."""
    zero = jnp.zeros_like(rows.mu)
    diag = 2 * rows.p if rows.penalty is None else 2 * rows.p + rows.penalty.hessian.diag
    return Curvature(diag, RankTwo(u=rows.p, v=rows.f, uu=zero, uv=zero - 2))


def penalty_curvature(rows: Rows) -> Curvature:
    """The regularizer's diagonal curvature alone, for the Gauss–Newton matrix."""
    diag = jnp.zeros_like(rows.f) if rows.penalty is None else rows.penalty.hessian.diag
    return Curvature(diag)
