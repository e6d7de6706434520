"""A layer at one point: products with its Gauss–Newton matrix and its Hessian."""

from typing import Any

import jax
import jax.numpy as jnp

from attnreg.objectives import layer_blocks as lb
from attnreg.objectives.base import Linearization, compiled
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.layer import LayerWeights


@pytree_dataclass("gauss_newton")
class LayerLinearization(Linearization):
    """A `LayerObjective` at one point."""

    value: jax.Array
    gradient: LayerWeights
    x: LayerWeights
    kept: Any
    objective: Any
    gauss_newton: bool = False

    @compiled()
    def hvp(self, v: LayerWeights) -> LayerWeights:
        """`2 JᵀJ v`, and when exact the curvature of the outputs under the residual."""

        def emit(documents, heads):
            heads = lb.run_heads(documents, self.x) if heads is None else heads
            push = lb.push_forward(documents, heads, self.x, v)
            moved = jnp.where(documents.live[:, :, None], push.out, jnp.zeros((), push.out.dtype))
            out = lb.pull_back(documents, heads, self.x, 2 * moved)
            if self.gauss_newton:
                return out
            w = 2 * lb.residual(documents, heads, self.x.O)
            return jax.tree.map(jnp.add, out, lb.curve(documents, heads, self.x, w, push, v.O))

        return self.objective._sum(emit, self.kept)
