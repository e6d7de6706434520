"""A Kronecker factor per head and unknown: the preconditioner of a layer's Gauss–Newton matrix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.kronecker import Kronecker
from attnreg.objectives.layer_blocks import Documents, Heads, gathered
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.layer import LayerWeights

# Random sign vectors over the outputs that stand for all of them. One costs less than a product; with 2 a step takes
# twice the products that it takes with 8.
PROBES = 8


class Sums(NamedTuple):
    """Per head, sums over rows: for Q and K a left (h, d, d), a right (h, r, r) and its trace (h,).

    V and O have exact blocks: zz = Σ z z over attended inputs (h, d, d), and over the values (h, s, s) or None. What
    queries share is summed over them, with g heads in the place of h.
    """

    Q: tuple[jax.Array, jax.Array, jax.Array]
    K: tuple[jax.Array, jax.Array, jax.Array]
    inputs: jax.Array
    values: jax.Array | None


def signs(width: int, dtype: Any, probes: int = PROBES) -> jax.Array:
    """Fixed sign vectors Ω (c, p) with E[ΩΩᵀ] = I."""
    drawn = jax.random.rademacher(jax.random.key(0), (width, min(probes, width)), dtype)
    return drawn / jnp.sqrt(jnp.asarray(drawn.shape[1], dtype))


def sums(documents: Documents, heads: Heads, x: LayerWeights, probes: jax.Array) -> Sums:
    """`Sums` of one block at weights x.

    Along an output direction ω row j of a head moves by `⟨c_j, q̇_j⟩` and by `⟨K̇, N_j ⊗ q_j⟩`, with
    `c_j = Σ_m G_jm k_m`, `N_j = Σ_m G_jm a_m` and `G = F∘(v O ω − z O ω)`: Q sees `Σ a aᵀ ⊗ c cᵀ`, K `Σ N Nᵀ ⊗ q qᵀ`.
    With rotary positions c_j is turned back. What K sees is no such product then: its columns get `Σ_m ‖a_m‖² e eᵀ`,
    e_m the turn back of `Σ_j ±G_jm q_j`, with a fixed sign for each row.
    """
    A, live = documents.A, documents.live[:, None, :, None]
    q, k, v, z, F, slope, _ = heads
    h, O, row_signs = q.shape[1], x.O, signs(q.shape[2], A.dtype, 1)[None, None]
    sides = jnp.broadcast_to(probes, (h, *probes.shape)) if O is None else tt.einsum("hsc,cp->hsp", O, probes)
    v_side, z_side = tt.einsum("bhms,hsp->pbhm", v, sides), tt.einsum("bhns,hsp->pbhn", z, sides)
    lengths = jnp.broadcast_to(jnp.sum(A * A, axis=2)[:, None], q.shape[:3])
    both = jnp.concatenate([k, jnp.broadcast_to(A[:, None], (*k.shape[:3], A.shape[2]))], axis=3)
    q_size = jnp.sum(q * q, axis=3)
    c_size = N_size = jnp.zeros_like(q_size)
    Q_right, K_left, K_right = (jnp.zeros((h, width, width), A.dtype) for width in (q.shape[3], A.shape[2], q.shape[3]))
    for v_one, z_one in zip(v_side, z_side, strict=True):
        G = F * (v_one[:, :, None, :] - z_one[:, :, :, None])
        G = G if slope is None else G * slope
        c, N = jnp.split(jnp.where(live, tt.einsum("bhnm,bhmx->bhnx", G, both), 0), [q.shape[3]], axis=3)
        c = documents.queries(c, back=True)
        c_size, N_size = c_size + jnp.sum(c * c, axis=3), N_size + jnp.sum(N * N, axis=3)
        Q_right, K_left = Q_right + _gram(c, lengths), K_left + _gram(N, q_size)
        if documents.rotary is not None:
            e = tt.einsum("bhnm,bhnr->bhmr", jnp.where(live, G, 0), q * row_signs)
            K_right = K_right + _gram(documents.keys(e, back=True), lengths)
    Q_left = tt.einsum("bni,bnhj->hij", A, jnp.swapaxes(c_size, 1, 2)[..., None] * A[:, :, None, :])
    K_right = _gram(q, N_size) if documents.rotary is None else K_right
    of_k = [gathered(part, len(x.K)) for part in (K_left, K_right)]
    attended = jnp.where(live, tt.einsum("bhnm,bmd->bhnd", F, A), 0)
    return Sums(
        (Q_left, Q_right, jnp.sum(c_size * lengths, axis=(0, 2))),
        (of_k[0], of_k[1], jnp.trace(of_k[1], axis1=1, axis2=2)),
        gathered(_gram(attended), len(x.V)),
        None if O is None else _gram(jnp.where(live, z, 0)),
    )


def _gram(x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """`Σ weight x xᵀ` per head for x (b, h, n, ·) and weight (b, h, n)."""
    return tt.einsum("bhni,bhnj->hij", x if weight is None else x * weight[..., None], x)


@pytree_dataclass()
class LayerPreconditioner:
    """Block diagonal: one `Kronecker` per head for each of Q, K, V and O (their fields have a leading head axis)."""

    Q: Kronecker
    K: Kronecker
    V: Kronecker
    O: Kronecker | None

    @classmethod
    def of(cls, total: Sums, x: LayerWeights, width: int) -> "LayerPreconditioner":
        """From the sums over all rows; `width` is c. Cost: two eigendecompositions per head and unknown."""
        many = jax.vmap(Kronecker.of)
        h, dtype, O = len(x.Q), total.inputs.dtype, x.O
        outputs = jnp.broadcast_to(jnp.eye(width, dtype=dtype), (h, width, width))

        def pair(left, right, trace):
            return many(2 * left, right / jnp.where(trace > 0, trace, jnp.ones_like(trace))[:, None, None])

        # Queries that share values: the mean over them of what reads the values.
        seen = outputs if O is None else gathered(tt.einsum("hsc,htc->hst", O, O), len(x.V)) / (h // len(x.V))
        writes = None if total.values is None else many(2 * total.values, outputs)
        return cls(pair(*total.Q), pair(*total.K), many(2 * total.inputs, seen), writes)

    def _each(self, function: Any, *trees: Any) -> LayerWeights:
        """`function(block, parts of the trees)` for every block, over its heads."""
        blocks = (self.Q, self.K, self.V, self.O)
        parts = zip(blocks, *trees, strict=True)
        return LayerWeights._make(None if block is None else jax.vmap(function)(block, *rest) for block, *rest in parts)

    def scale(self) -> LayerWeights:
        """Mean eigenvalue of each block, (h,) for each unknown."""
        return self._each(Kronecker.scale)

    def largest(self) -> jax.Array:
        """Largest eigenvalue of all blocks, a scalar."""
        return jnp.max(jnp.stack(jax.tree.leaves(self._each(Kronecker.largest))))

    def apply(self, v: LayerWeights, *, relative: jax.Array | float = 0.0) -> LayerWeights:
        """Each block's `(P + relative·scale) v`, shaped like v."""
        return self._each(lambda block, x: block.apply(x, relative=relative), v)

    def solve(self, v: LayerWeights, *, relative: jax.Array | float = 0.0) -> LayerWeights:
        """Each block's `(P + relative·scale)⁻¹ v`, shaped like v."""
        return self._each(lambda block, x: block.solve(x, relative=relative), v)
