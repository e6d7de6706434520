"""Damped Newton with the exact dense Hessian: the solver for small unknowns (d1·d2 up to a few thousand)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.objectives import Objective
from attnreg.solvers.result import Status
from attnreg.solvers.solver import Solver, State, acceptable, add_counts, count, select, tree_norm

CURVATURES = ("auto", "exact", "gauss_newton")


class Inner(NamedTuple):
    """Newton's memory: the Hessian of the current point (when `kept`), and whether the exact one is to be tried."""

    hessian: jax.Array
    kept: jax.Array
    exact: jax.Array


@dataclasses.dataclass(frozen=True)
class Newton(Solver):
    """Levenberg-damped Newton, `(H + λ s I) δ = −g` by Cholesky with `s` the mean of |diag H|, and chord steps.

    * Curvature "auto": Gauss–Newton while the model predicts badly, the exact Hessian as soon as it is good, and
      Gauss–Newton again wherever the exact `H + λ s I` is not positive definite. "gauss_newton" never tries the exact one.
    * λ follows the ratio of actual to predicted decrease (Nielsen's rule) and never falls below `eps^(2/3)`: the softmax
      gauge and rank-deficient data make H singular; this floor pins the undetermined directions and leaves the fast phase fast.
    * A Hessian costs several gradients, so one factorisation serves further steps (Shamanskii's chord steps) as long as
      each cuts the gradient norm to `chord` of what it was.

    Args:
        tol: stop at gradient norm ≤ tol × its norm at the start.
        max_steps: factorisations, accepted or not.
        damping: λ at the start, relative to s.
        curvature: "auto", "exact" (as auto, but exact from the first step) or "gauss_newton".
        chord: largest gradient-norm ratio at which a factorisation is used once more; 0 never reuses.

    Cost per step: one Hessian (see `AttentionObjective`), p³/3 flops and p² memory for p unknowns, and a gradient per chord step.
    """

    tol: float = 1e-8
    max_steps: int = 100
    damping: float = 1e-3
    curvature: str = "auto"
    chord: float = 0.1

    def __post_init__(self):
        if self.curvature not in CURVATURES:
            raise ValueError(f"curvature is {self.curvature!r}; it must be one of {', '.join(CURVATURES)}")

    def init(self, objective: Objective, params: Any) -> State:
        """Value and gradient at the start."""
        value, gradient = objective.value_and_grad(params)
        p = ravel_pytree(params)[0].size
        inner = Inner(
            jnp.zeros((p, p), value.dtype), jnp.asarray(False), jnp.asarray(self.curvature == "exact")
        )  # fmt: skip
        counts = count(values=1, gradients=1)
        return self.start(params, value, gradient, damping=self.damping, inner=inner, counts=counts)

    def step(self, objective: Objective, state: State) -> State:
        """One factorisation: a Newton step and the chord steps it is good for."""
        factor, shift, inner, hessians = self._factorise(objective, state)
        state = state._replace(inner=inner, counts=add_counts(state.counts, count(hessians=hessians)))
        state, accepted, ratio = self._try(objective, state, factor, shift)
        damping, growth = nielsen(state, accepted, ratio)
        exact = inner.exact | (accepted & (ratio > 0.5)) if self.curvature != "gauss_newton" else inner.exact
        eager = accepted & (ratio > 0.1)

        def again(carry):
            state, _ = carry
            before = state.gradient_norm
            state, accepted, _ = self._try(objective, state, factor, shift)
            return state, accepted & (state.gradient_norm <= self.chord * before)

        def worth_it(carry):
            state, eager = carry
            return eager & (state.gradient_norm > self.tol * state.start_gradient_norm)

        if self.chord > 0:
            state, _ = jax.lax.while_loop(worth_it, again, (state, eager))
        status = jnp.where(~accepted & (damping > 1e12), Status.STALLED, state.status).astype(jnp.int32)
        inner = state.inner._replace(kept=~accepted, exact=exact)
        return state._replace(damping=damping, growth=growth, inner=inner, status=status, steps=state.steps + 1)

    def _factorise(self, objective, state):
        """Cholesky factor of the damped Hessian, its shift, the kept Hessian, and how many Hessians were formed."""
        inner = state.inner

        def evaluate(gauss_newton):
            return objective.value_grad_hessian(state.params, gauss_newton=gauss_newton)[2]

        def fresh():
            if self.curvature == "gauss_newton":
                return evaluate(True)
            return jax.lax.cond(inner.exact, lambda: evaluate(False), lambda: evaluate(True))

        hessian = jax.lax.cond(inner.kept, lambda: inner.hessian, fresh)
        hessians = jnp.where(inner.kept, 0, 1)
        factor, shift = _cholesky(hessian, state.damping)
        if self.curvature == "gauss_newton":
            return factor, shift, inner._replace(hessian=hessian), hessians
        good = jnp.all(jnp.isfinite(jnp.diagonal(factor)))

        def fallback():
            gauss_newton = evaluate(True)
            return gauss_newton, *_cholesky(gauss_newton, state.damping)

        hessian, factor, shift = jax.lax.cond(good, lambda: (hessian, factor, shift), fallback)
        inner = inner._replace(hessian=hessian, exact=inner.exact & good)
        return factor, shift, inner, hessians + jnp.where(good, 0, 1)

    def _try(self, objective, state, factor, shift):
        """One step with a given factor: the state after it, whether it was taken, actual over predicted decrease."""
        flat, unravel = ravel_pytree(state.params)
        g = ravel_pytree(state.gradient)[0]
        delta = -jax.scipy.linalg.cho_solve((factor, True), g)
        predicted = (shift * delta @ delta - g @ delta) / 2
        trial = unravel(flat + delta)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        accepted, ratio = acceptable(state, value, norm, predicted)
        old = (state.params, state.value, state.gradient, state.gradient_norm)
        params, value, gradient, norm = select(accepted, (trial, value, gradient, norm), old)
        counts = add_counts(state.counts, count(values=1, gradients=1))
        state = state._replace(params=params, value=value, gradient=gradient, gradient_norm=norm, counts=counts)
        return state, accepted, ratio


def _cholesky(hessian, damping):
    """Factor of `H + shift I` and the shift `damping · mean|diag H|`; NaN where that is not positive definite."""
    shift = damping * jnp.mean(jnp.abs(jnp.diagonal(hessian)))
    shift = jnp.maximum(shift, jnp.finfo(hessian.dtype).tiny)
    return jnp.linalg.cholesky(hessian + shift * jnp.eye(hessian.shape[0], dtype=hessian.dtype)), shift


def nielsen(state: State, accepted, ratio) -> tuple[jax.Array, jax.Array]:
    """Levenberg damping after a step: shrink by how well the model predicted, grow twice as fast at each failure."""
    floor = jnp.finfo(state.damping.dtype).eps ** (2 / 3)
    shrink = jnp.maximum(0.1, 1 - (2 * ratio - 1) ** 3)
    shrink = jnp.where(ratio > 0.9, 0.01, shrink)
    damping = jnp.where(accepted, state.damping * shrink, state.damping * state.growth)
    growth = jnp.where(accepted, 2.0, 2 * state.growth)
    return jnp.maximum(damping, floor).astype(state.damping.dtype), growth.astype(state.growth.dtype)
