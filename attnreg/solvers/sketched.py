"""Newton with a sampled Hessian: the iterative greedy algorithm of the literature."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.lift.triangular import cholesky_solve
from attnreg.problems.checks import ProblemError, check_flag, check_integer
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.state import State, count, counted, moved, tree_norm


class Inner(NamedTuple):
    """The length of the next step, and the key of all draws."""

    length: jax.Array
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class SketchedNewton(Solver):
    """Newton with a sampled Hessian: `x ← x − H̃⁻¹ g`, `(1−ε)H ≼ H̃ ≼ (1+ε)H` drawn anew every step.

    As published there is no line search: inside the region where the regularized loss is strongly convex each step
    contracts `‖x_t − x*‖` by about ε. `safeguard=True` halves a step that does not lower the loss, which changes
    nothing inside that region.

    Args:
        sampler: `sampler(key, objective, params, samples=...)` returns H̃ over `ravel_pytree(params)`, for example
            `attnreg.objectives.sampled.sampled_hessian`.
        samples: what it is given; ε falls as 1/√samples. seed: of the draws. safeguard: whether to halve bad steps.
        tol, max_steps: see `Solver`; a step is one draw.

    Precision: contraction by about ε a step (tests/solvers/test_sketched.py, configs/greedy_newton.py).
    Cost: per step one gradient, one sampled Hessian and p³/3 flops.
    Raises: ProblemError for an option out of range; the sampler for an objective that it cannot sample.
    Source: arXiv 2304.10411, 2305.00660, 2309.07418.
    """

    sampler: Callable[..., jax.Array]
    samples: int
    tol: float | None = None
    max_steps: int = 100
    seed: int = 0
    safeguard: bool = True

    CONTROL: ClassVar[str] = "length of the step, relative to the Newton step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.sampler):
            raise ProblemError(
                f"sampler is a {type(self.sampler).__name__}; it must be a function like sampled_hessian"
            )
        check_integer("samples", self.samples, at_least=1)
        check_integer("seed", self.seed, at_least=0)
        check_flag("safeguard", self.safeguard)

    def init(self, objective: Any, params: Any) -> State:
        """One value and gradient, and the key of the draws."""
        value, gradient = objective.value_and_grad(params)
        inner = Inner(jnp.ones_like(value), jax.random.key(self.seed))
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """The step length."""
        return state.inner.length

    def advance(self, objective: Any, state: State) -> State:
        """Draw H̃, solve, move."""
        length, key = state.inner
        draw = jax.random.fold_in(key, state.steps)
        hessian = self.sampler(draw, objective, state.params, samples=self.samples)
        flat, unravel = ravel_pytree(state.params)
        g = ravel_pytree(state.gradient)[0]
        factor = jnp.linalg.cholesky(hessian)
        delta = -cholesky_solve(factor, g)
        # A draw that is not positive definite says nothing about the curvature: take the gradient scaled by its
        # diagonal.
        scaled = -g / jnp.maximum(jnp.mean(jnp.abs(jnp.diagonal(hessian))), jnp.finfo(g.dtype).tiny)
        delta = jnp.where(jnp.all(jnp.isfinite(delta)), delta, scaled)
        trial = unravel(flat + length * delta)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        noise = 8 * jnp.finfo(g.dtype).eps * jnp.abs(state.start_value)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        accepted = finite & ((value <= state.value + noise) if self.safeguard else jnp.ones_like(finite))
        state = counted(moved(state, accepted, trial, value, gradient, norm), values=1, gradients=1, hessians=1)
        length = jnp.where(accepted, jnp.minimum(2 * length, 1.0), length / 2).astype(length.dtype)
        status = status_of(finite & (length > 1e-10), state.status, Status.STALLED)
        return state._replace(inner=Inner(length, key), status=status, steps=state.steps + 1)
