"""Matrix-free trust-region Newton with Kronecker-preconditioned conjugate gradients: the solver for large unknowns."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift.precision import steering
from attnreg.objectives.base import Cache
from attnreg.problems.checks import check_choice, check_integer, check_number
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.state import State, acceptable, count, counted, moved, tree_axpy, tree_dot, tree_norm


class Inner(NamedTuple):
    """What Newton-CG remembers from step to step.

    radius: of the trust region, infinite at the start. preconditioner: in use. exact: whether the exact Hessian is
    (curvature "auto").
    """

    radius: jax.Array
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
        tol, max_steps: see `Solver`; a step is one subproblem, accepted or not.
        max_cg: products per step.
        forcing: largest relative residual at which CG may stop.
        preconditioner_damping: added to the Kronecker eigenvalues, relative to their mean.
        refresh: steps between rebuilds of the preconditioner.
        curvature: "gauss_newton", "exact", or "auto": Gauss–Newton until a full step no longer halves the gradient, or
            the loss falls by less than a quarter of what it predicts (large residuals do both), then exact until a step
            fails.
        cache: see `AttentionObjective.linearize`.

    Precision: the gradient norm falls to `tol` times its norm at the start, or to its rounding error; the status says
    which (tests/solvers/test_solver_table.py, tests/solvers/test_verdicts.py).
    Cost: per step one value and gradient, the counted products, and every `refresh` steps a preconditioner.
    Raises: ProblemError for an option out of range.
    Source: the subproblem is Steihaug's and Toint's; the norm of the preconditioner is docs/decisions.md's.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("linearize", "preconditioner")
    CONTROL: ClassVar[str] = "trust radius in the norm of the preconditioner"

    tol: float | None = None
    max_steps: int = 200
    max_cg: int = 200
    forcing: float = 0.1
    preconditioner_damping: float = 0.1
    curvature: str = "auto"
    cache: Cache = "auto"
    refresh: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("max_cg", self.max_cg, at_least=1)
        check_number("forcing", self.forcing, above=0, below=1)
        check_number("preconditioner_damping", self.preconditioner_damping, at_least=0)
        check_choice("curvature", self.curvature, ("auto", "exact", "gauss_newton"))
        check_choice("cache", self.cache, ("auto", "none", "entries", "blocks"))
        check_integer("refresh", self.refresh, at_least=1)

    def init(self, objective: Any, params: Any) -> State:
        """One value and gradient; the first trust radius is the length of the preconditioned gradient step."""
        value, gradient = objective.value_and_grad(params)
        exact = jnp.asarray(self.curvature == "exact")
        inner = Inner(jnp.full_like(value, jnp.inf), objective.preconditioner(params), exact)
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """The trust radius."""
        return state.inner.radius

    def advance(self, objective: Any, state: State) -> State:
        """Solve the trust-region subproblem, try the point, move the radius."""
        stale = (state.steps > 0) & (state.steps % self.refresh == 0)
        preconditioner = jax.lax.cond(
            stale, lambda: objective.preconditioner(state.params), lambda: state.inner.preconditioner
        )

        def solve(v):
            return preconditioner.solve(v, relative=self.preconditioner_damping)

        natural = jnp.sqrt(tree_dot(state.gradient, solve(state.gradient)))
        radius = jnp.where(jnp.isinf(state.inner.radius), natural, state.inner.radius)
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
        # Where the residual is large Gauss–Newton predicts badly: the region shrinks, and it creeps along its edge.
        exact = jnp.where(state.inner.exact, accepted, slow | (ratio < 0.25))
        eps = jnp.finfo(value.dtype).eps
        stuck = ~accepted & (tree_norm(cg.s) <= eps * tree_norm(state.params))
        state = moved(state, accepted, trial, value, gradient, norm)
        state = counted(state, values=1, gradients=1, hvps=cg.products)
        status = status_of(stuck, Status.STALLED, state.status)
        return state._replace(inner=Inner(radius, preconditioner, exact), status=status, steps=state.steps + 1)


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


def steihaug(
    hvp: Callable[[Any], Any],
    solve: Callable[[Any], Any],
    g: Any,
    radius: jax.Array,
    eta: jax.Array,
    max_products: int,
) -> Subproblem:
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
        with steering():
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
