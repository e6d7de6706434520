"""Matrix-free trust-region Newton with Kronecker-preconditioned conjugate gradients: the solver for large unknowns."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.objectives.base import Cache, Objective
from attnreg.solvers.base import Solver, State, acceptable, add_counts, count, select, tree_axpy, tree_dot, tree_norm
from attnreg.solvers.result import Status


class Inner(NamedTuple):
    """Newton-CG's memory: the preconditioner, and whether the exact Hessian is in use (curvature "auto")."""

    preconditioner: Any
    exact: jax.Array


@dataclasses.dataclass(frozen=True)
class NewtonCG(Solver):
    """Trust-region Newton–CG (Steihaug–Toint) in the norm of the Kronecker preconditioner.

    Each step solves `H s = −g` by preconditioned conjugate gradients until the residual has fallen by
    `min(forcing, √(‖g‖/‖g₀‖))`, the trust region is left, or negative curvature is met; the curvature of the point is
    cached by the objective as far as memory allows, so a product costs much less than a gradient. CG stays
    in the range of a singular H, so the softmax gauge needs no care.

    Args:
        tol: stop at gradient norm ≤ tol × its norm at the start.
        max_steps: outer steps. max_cg: products per step.
        forcing: largest relative residual at which CG may stop.
        preconditioner_damping: added to the Kronecker eigenvalues, relative to their mean.
        refresh: steps between rebuilds of the preconditioner.
        curvature: "gauss_newton", "exact", or "auto": Gauss–Newton until a full step no longer halves the gradient
            (large residuals make it converge linearly), then exact until a step fails.
        cache: see `AttentionObjective.linearize`.

    Cost per step: one value and gradient, one preconditioner, and the counted products.
    """

    tol: float = 1e-8
    max_steps: int = 200
    max_cg: int = 200
    forcing: float = 0.1
    preconditioner_damping: float = 0.1
    curvature: str = "auto"
    cache: Cache = "auto"
    refresh: int = 5

    def __post_init__(self):
        if self.curvature not in ("auto", "exact", "gauss_newton"):
            raise ValueError(f"curvature is {self.curvature!r}; it must be 'auto', 'exact' or 'gauss_newton'")

    def init(self, objective: Objective, params: Any) -> State:
        """One value and gradient; the first trust radius is the length of the preconditioned gradient step."""
        value, gradient = objective.value_and_grad(params)
        return self.start(
            params,
            value,
            gradient,
            damping=jnp.inf,
            inner=Inner(objective.kronecker(params), jnp.asarray(self.curvature == "exact")),
            counts=count(values=1, gradients=1),
        )

    def step(self, objective: Objective, state: State) -> State:
        """Solve the trust-region subproblem, try the point, move the radius."""
        stale = (state.steps > 0) & (state.steps % self.refresh == 0)
        preconditioner = jax.lax.cond(
            stale, lambda: objective.kronecker(state.params), lambda: state.inner.preconditioner
        )
        damping = jax.tree.map(lambda mean: self.preconditioner_damping * mean, preconditioner.mean())

        def solve(v):
            return preconditioner.solve(v, damping)

        natural = jnp.sqrt(tree_dot(state.gradient, solve(state.gradient)))
        radius = jnp.where(jnp.isinf(state.damping), natural, state.damping)
        eta = jnp.minimum(self.forcing, jnp.sqrt(state.gradient_norm / state.start_gradient_norm))

        def subproblem(gauss_newton):
            line = objective.linearize(state.params, gauss_newton=gauss_newton, cache=self.cache)
            return steihaug(line.hvp, solve, state.gradient, radius, eta, self.max_cg)

        if self.curvature == "auto":
            cg = jax.lax.cond(state.inner.exact, lambda: subproblem(False), lambda: subproblem(True))
        else:
            cg = subproblem(self.curvature == "gauss_newton")
        trial = jax.tree.map(jnp.add, state.params, cg.s)
        value, gradient = objective.value_and_grad(trial)
        norm = tree_norm(gradient)
        accepted, ratio = acceptable(state, value, norm, cg.predicted)
        at_edge = cg.length >= 0.99 * radius
        radius = jnp.where(ratio > 0.75, jnp.where(at_edge, 3 * radius, radius), radius)
        radius = jnp.where(ratio < 0.25, 0.25 * jnp.minimum(cg.length, radius), radius)
        slow = accepted & ~at_edge & (norm > 0.5 * state.gradient_norm)
        exact = jnp.where(state.inner.exact, accepted & ~at_edge, slow)
        eps = jnp.finfo(value.dtype).eps
        stuck = ~accepted & (tree_norm(cg.s) <= eps * tree_norm(state.params))
        params, value, gradient, norm = select(
            accepted, (trial, value, gradient, norm), (state.params, state.value, state.gradient, state.gradient_norm)
        )
        extra = count(values=1, gradients=1, hvps=cg.products)
        return state._replace(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            damping=radius,
            inner=Inner(preconditioner, exact),
            status=jnp.where(stuck, Status.STALLED, state.status).astype(jnp.int32),
            steps=state.steps + 1,
            counts=add_counts(state.counts, extra),
        )


class Subproblem(NamedTuple):
    """Outcome of `steihaug`: the step, its length in the preconditioner's norm, predicted decrease, products used."""

    s: Any
    length: jax.Array
    predicted: jax.Array
    products: jax.Array


class _CG(NamedTuple):
    s: Any
    r: Any
    d: Any
    rz: jax.Array
    ss: jax.Array
    sd: jax.Array
    dd: jax.Array
    k: jax.Array
    done: jax.Array


def steihaug(hvp, solve, g: Any, radius: jax.Array, eta: jax.Array, max_products: int) -> Subproblem:
    """Preconditioned CG on `½ sᵀHs + gᵀs` inside `sᵀPs ≤ radius²`, stopped at negative curvature or the boundary."""
    z = solve(g)
    rz = tree_dot(g, z)
    zero = jnp.zeros_like(rz)
    start = _CG(
        jax.tree.map(jnp.zeros_like, g), g, jax.tree.map(jnp.negative, z), rz, zero, zero, rz, jnp.int32(0), rz <= 0
    )
    # The residual is measured in the same norm as the steps, where the problem is well scaled.
    goal = eta * eta * rz

    def body(c: _CG) -> _CG:
        hd = hvp(c.d)
        curvature = tree_dot(c.d, hd)
        alpha = c.rz / jnp.where(curvature > 0, curvature, 1)
        ss = c.ss + alpha * (2 * c.sd + alpha * c.dd)
        leave = (curvature <= 0) | (ss >= radius * radius)
        to_edge = _to_boundary(c, radius)
        tau = jnp.where(leave, to_edge, alpha)
        s, r = tree_axpy(tau, c.d, c.s), tree_axpy(tau, hd, c.r)
        z = solve(r)
        rz = tree_dot(r, z)
        beta = rz / c.rz
        d = jax.tree.map(lambda x, y: beta * x - y, c.d, z)
        sd = beta * (c.sd + alpha * c.dd)
        return _CG(
            s, r, d, rz, jnp.where(leave, radius * radius, ss), sd, rz + beta * beta * c.dd, c.k + 1,
            leave | (rz <= goal),
        )  # fmt: skip

    end = jax.lax.while_loop(lambda c: ~c.done & (c.k < max_products), body, start)
    predicted = -(tree_dot(g, end.s) + tree_dot(end.r, end.s)) / 2
    return Subproblem(end.s, jnp.sqrt(jnp.maximum(end.ss, 0)), predicted, end.k)


def _to_boundary(c: _CG, radius: jax.Array) -> jax.Array:
    """The positive root τ of ‖s + τ d‖_P = radius."""
    dd = jnp.where(c.dd > 0, c.dd, 1)
    gap = jnp.maximum(radius * radius - c.ss, 0)
    root = jnp.sqrt(jnp.maximum(c.sd * c.sd + dd * gap, 0))
    return gap / jnp.maximum(c.sd + root, jnp.finfo(root.dtype).tiny)
