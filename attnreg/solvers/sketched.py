"""Newton with a sampled Hessian: the iterative greedy algorithm of the literature."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.objectives.base import Objective
from attnreg.solvers.base import Solver, State, add_counts, count, select, tree_norm
from attnreg.solvers.result import Status


@dataclasses.dataclass(frozen=True)
class SketchedNewton(Solver):
    """`x ← x − H̃⁻¹ g` with a fresh spectral approximation `(1−ε)H ≼ H̃ ≼ (1+ε)H` every step (arXiv 2304.10411,
    2305.00660, 2309.07418).

    As published there is no line search: inside the region where the regularized loss is strongly convex each step
    contracts `‖x_t − x*‖` by about ε. `safeguard=True` halves a step that does not lower the loss, which changes
    nothing inside that region.

    Args:
        sampler: `sampler(key, objective, params, samples=...)` returns H̃ over `ravel_pytree(params)`, for example
            `attnreg.objectives.sampled.sampled_hessian`. samples: what it is given; ε falls as 1/√samples. seed: of the
            draws.
        tol: stop at gradient norm ≤ tol × its norm at the start. max_steps: steps.

    Cost per step: one gradient, one sampled Hessian, p³/3 flops.
    """

    sampler: Callable[..., jax.Array]
    samples: int
    tol: float = 1e-10
    max_steps: int = 100
    seed: int = 0
    safeguard: bool = True

    def init(self, objective: Objective, params: Any) -> State:
        """One value and gradient; `damping` records the step length."""
        value, gradient = objective.value_and_grad(params)
        key = jax.random.key(self.seed)
        return self.start(params, value, gradient, damping=1.0, inner=key, counts=count(values=1, gradients=1))

    def step(self, objective: Objective, state: State) -> State:
        """Draw H̃, solve, move."""
        draw = jax.random.fold_in(state.inner, state.steps)
        hessian = self.sampler(draw, objective, state.params, samples=self.samples)
        flat, unravel = ravel_pytree(state.params)
        g = ravel_pytree(state.gradient)[0]
        factor = jnp.linalg.cholesky(hessian)
        delta = -jax.scipy.linalg.cho_solve((factor, True), g)
        # A draw that is not positive definite says nothing about the curvature: take the gradient scaled by its
        # diagonal.
        scaled = -g / jnp.maximum(jnp.mean(jnp.abs(jnp.diagonal(hessian))), jnp.finfo(g.dtype).tiny)
        delta = jnp.where(jnp.all(jnp.isfinite(delta)), delta, scaled)
        trial = unravel(flat + state.damping * delta)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        noise = 8 * jnp.finfo(g.dtype).eps * jnp.abs(state.start_value)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        accepted = finite & ((value <= state.value + noise) if self.safeguard else jnp.ones_like(finite))
        new, old = (trial, value, gradient, norm), (state.params, state.value, state.gradient, state.gradient_norm)
        params, value, gradient, norm = select(accepted, new, old)
        length = jnp.where(accepted, jnp.minimum(2 * state.damping, 1.0), state.damping / 2)
        status = jnp.where(finite & (length > 1e-10), state.status, Status.STALLED)
        return state._replace(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            damping=length.astype(state.damping.dtype),
            status=status.astype(jnp.int32),
            steps=state.steps + 1,
            counts=add_counts(state.counts, count(values=1, gradients=1, hessians=1)),
        )
