"""Products with the joint one-layer Hessian at one point: rows passed over again, kernels, or kept blocks."""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.objectives import one_layer_fused
from attnreg.objectives import one_layer_rows as ol
from attnreg.objectives.base import Linearization, compiled
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import Unknowns


@pytree_dataclass("gauss_newton")
class StreamedLinearization(Linearization):
    """Nothing kept: each product passes over the rows again."""

    value: jax.Array
    gradient: Unknowns
    params: Unknowns
    objective: Any
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: Unknowns) -> Unknowns:
        """One pass with the derivative of every row quantity along v."""
        out = self.objective.sum(lambda rows: self._on(rows, v), self.params)
        return jax.tree.map(jnp.add, out, self.objective._ridge_times(v))

    def _on(self, rows: ol.Rows, v: Unknowns) -> Unknowns:
        Y, block = self.params.Y, rows.block
        t = tt.logits(block.query, v.X, block.keys)
        df = rows.f * (t - jnp.sum(rows.f * t, axis=1, keepdims=True))
        dz = tt.matmul(df, rows.values)
        dr = tt.matmul(dz, Y) + tt.matmul(rows.z, v.Y)
        dq = ol.through_values(dr, Y, rows.values)
        gy = tt.matmul(ol.fresh_only(rows, rows.z).T, dr)
        if self.gauss_newton:
            gamma = rows.f * (dq - jnp.sum(rows.f * dq, axis=1, keepdims=True))
        else:
            dq = dq + ol.through_values(rows.residual, v.Y, rows.values)
            dmu = jnp.sum(df * rows.q + rows.f * dq, axis=1)
            gamma = df * (rows.q - rows.mu[:, None]) + rows.f * (dq - dmu[:, None])
            gy = gy + tt.matmul(ol.fresh_only(rows, dz).T, rows.residual)
        gamma = 2 * gamma
        if rows.penalty is not None:
            gamma = gamma + rows.penalty.hessian.apply(t)
        return Unknowns(tt.lift_gradient(block.lift, gamma, block.keys), 2 * gy)


@pytree_dataclass("gauss_newton")
class FusedLinearization(Linearization):
    """What kernels know of each row, (k, n, ·) numbers: a product is two sweeps over the keys."""

    value: jax.Array
    gradient: Unknowns
    params: Unknowns
    objective: Any
    kept: one_layer_fused.LayerRows
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: Unknowns) -> Unknowns:
        """Two sweeps over the keys."""
        objective = self.objective
        of = (objective.problem, self.params, self.kept, v, objective.kernel)
        out = one_layer_fused.hvp(*of, gauss_newton=self.gauss_newton)
        return jax.tree.map(jnp.add, out, objective._ridge_times(v))


@pytree_dataclass("gauss_newton")
class CachedLinearization(Linearization):
    """N_j (n, d2, d3), curvature blocks (n, d2, d2), z and residuals kept: a product is O(n·d²) whatever m is."""

    value: jax.Array
    gradient: Unknowns
    params: Unknowns
    objective: Any
    kept: Any
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: Unknowns) -> Unknowns:
        """Products with the kept blocks only."""
        N, curved, z, r = self.kept
        A1, Y = self.objective.problem.A1, self.params.Y
        moved = tt.matmul(A1, v.X)
        dz = tt.einsum("knab,kna->knb", N, moved)
        dr = tt.matmul(dz, Y) + tt.matmul(z, v.Y)
        inner = tt.matmul(dr, Y.T)
        gy = tt.einsum("knb,knc->bc", z, dr)
        if not self.gauss_newton:
            inner = inner + tt.matmul(r, v.Y.T)
            gy = gy + tt.einsum("knb,knc->bc", dz, r)
        logit = 2 * tt.einsum("knab,knb->kna", N, inner) + tt.einsum("knab,knb->kna", curved, moved)
        out = Unknowns(tt.einsum("kna,knb->ab", A1, logit), 2 * gy)
        return jax.tree.map(jnp.add, out, self.objective._ridge_times(v))
