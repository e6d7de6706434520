"""A Kronecker factor per head and unknown: the preconditioner of a layer's Gauss–Newton matrix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Kronecker
from attnreg.objectives.layer_blocks import Documents, Heads
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.layer import LayerWeights

# Random sign vectors over the outputs that stand for all of them.
PROBES = 2


class Sums(NamedTuple):
    """Per head, sums over rows: for Q and K a left (h, d, d), a right (h, r, r) and their common trace (h,).

    V and O have exact blocks: zz = Σ z z over attended inputs (h, d, d), and over the values (h, s, s) or None.
    """

    Q: tuple[jax.Array, jax.Array, jax.Array]
    K: tuple[jax.Array, jax.Array, jax.Array]
    inputs: jax.Array
    values: jax.Array | None


def signs(width: int, dtype: Any) -> jax.Array:
    """Fixed sign vectors Ω (c, p) with E[ΩΩᵀ] = I."""
    drawn = jax.random.rademacher(jax.random.key(0), (width, min(PROBES, width)), dtype)
    return drawn / jnp.sqrt(jnp.asarray(drawn.shape[1], dtype))


def sums(documents: Documents, heads: Heads, O: jax.Array | None, probes: jax.Array) -> Sums:
    """`Sums` of one block.

    Along an output direction ω row j of a head moves by `⟨c_j, q̇_j⟩` and by `⟨K̇, N_j ⊗ q_j⟩`, with
    `c_j = Σ_m G_jm k_m`, `N_j = Σ_m G_jm a_m` and `G = F∘(v O ω − z O ω)`: Q sees `Σ a aᵀ ⊗ c cᵀ`, K `Σ N Nᵀ ⊗ q qᵀ`.
    """
    A, live = documents.A, documents.live[:, :, None]
    q, k, v, z, F = heads
    h = q.shape[2]
    sides = jnp.broadcast_to(probes, (h, *probes.shape)) if O is None else tt.einsum("hsc,cp->hsp", O, probes)
    v_side, z_side = tt.einsum("bmhs,hsp->pbhm", v, sides), tt.einsum("bnhs,hsp->pbhn", z, sides)
    lengths = jnp.broadcast_to(jnp.where(live, jnp.sum(A * A, axis=2, keepdims=True), 0), (*A.shape[:2], h))
    totals = None
    for v_one, z_one in zip(v_side, z_side, strict=True):
        G = F * (v_one[:, :, None, :] - z_one[:, :, :, None])
        c = jnp.where(live[..., None], tt.einsum("bhnm,bmhr->bnhr", G, k), 0)
        N = jnp.where(live[..., None], tt.einsum("bhnm,bmd->bnhd", G, A), 0)
        c_size, N_size, q_size = (jnp.sum(x * x, axis=3) for x in (c, N, q))
        A_heads = jnp.broadcast_to(A[:, :, None, :], N.shape)
        part = (
            (_gram(A_heads, c_size), _gram(c, lengths), jnp.sum(c_size * lengths, axis=(0, 1))),
            (_gram(N, q_size), _gram(q, N_size), jnp.sum(N_size * q_size, axis=(0, 1))),
        )
        totals = part if totals is None else jax.tree.map(jnp.add, totals, part)
    attended = jnp.where(live[..., None], tt.einsum("bhnm,bmd->bnhd", F, A), 0)
    ones = jnp.ones(attended.shape[:3], A.dtype)
    values = None if O is None else _gram(jnp.where(live[..., None], z, 0), ones)
    assert totals is not None
    return Sums(*totals, _gram(attended, ones), values)


def _gram(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`Σ weight x xᵀ` per head for x (b, n, h, ·) and weight (b, n, h)."""
    return tt.einsum("bnhi,bnhj->hij", x * weight[..., None], x)


@pytree_dataclass()
class LayerPreconditioner:
    """Block diagonal: one `Kronecker` per head for each of Q, K, V and O (their fields have a leading head axis)."""

    Q: Kronecker
    K: Kronecker
    V: Kronecker
    O: Kronecker | None

    @classmethod
    def of(cls, total: Sums, O: jax.Array | None, width: int) -> "LayerPreconditioner":
        """From the sums over all rows; `width` is c. Cost: two eigendecompositions per head and unknown."""
        many = jax.vmap(Kronecker.of)
        h, dtype = total.inputs.shape[0], total.inputs.dtype
        outputs = jnp.broadcast_to(jnp.eye(width, dtype=dtype), (h, width, width))

        def pair(left, right, trace):
            return many(2 * left, right / jnp.where(trace > 0, trace, jnp.ones_like(trace))[:, None, None])

        seen = outputs if O is None else tt.einsum("hsc,htc->hst", O, O)
        writes = None if total.values is None else many(2 * total.values, outputs)
        return cls(pair(*total.Q), pair(*total.K), many(2 * total.inputs, seen), writes)

    def mean(self) -> LayerWeights:
        """Mean eigenvalue of each block, (h,) per unknown."""
        return LayerWeights(*(None if b is None else jax.vmap(Kronecker.mean)(b) for b in self._blocks()))

    def _blocks(self) -> tuple[Kronecker | None, ...]:
        return self.Q, self.K, self.V, self.O

    def solve(self, v: LayerWeights, damping: LayerWeights) -> LayerWeights:
        """Blockwise damped inverse; damping (h,) per unknown."""
        parts = (
            None if block is None else jax.vmap(Kronecker.solve)(block, part, lam)
            for block, part, lam in zip(self._blocks(), v, damping, strict=True)
        )
        return LayerWeights(*parts)
