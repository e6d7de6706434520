"""Levenberg–Marquardt for large unknowns, as a host loop: preconditioned conjugate gradients in slices, under a clock.

Each step minimises `‖J s + r‖² + Σ_b λ_b ‖s_b‖²` over the unknowns, the damping of block b being `λ_b = μ × the mean
eigenvalue of its preconditioner`: one number μ for blocks of any unit. A step of a large layer takes minutes, so the
conjugate gradients run in slices of `slice_length` products and the clock is looked at between two slices.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.fit.ahead import programs
from attnreg.lift.kronecker import Preconditioner
from attnreg.lift.precision import steering
from attnreg.objectives.base import Linearization, SecondOrderObjective
from attnreg.problems.checks import ProblemError, check_integer, check_number
from attnreg.solvers.state import tree_axpy, tree_dot


class Options(NamedTuple):
    """Constants of the loop, measured on heads of MiniLM.

    damping: the first μ. forcing: conjugate gradients stop once the residual, in the norm of the preconditioner, has
    fallen by this factor, or after max_products. smallest: the least μ. shortest: how far a step that fails is
    shortened. failures: steps in a row without a decrease that end it.
    """

    damping: float = 3e-3
    forcing: float = 0.05
    max_products: int = 150
    slice_length: int = 10
    smallest: float = 1e-10
    shortest: float = 1 / 32
    failures: int = 3


def checked_options(options: Options | None) -> Options:
    """The options, or the defaults for None; refuses anything else."""
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise ProblemError(f"second is a {type(options).__name__}; it must be attnreg.fit.gauss_newton.Options")
    check_number("second.damping", options.damping, above=0)
    check_number("second.forcing", options.forcing, above=0, below=1)
    check_number("second.smallest", options.smallest, above=0)
    check_number("second.shortest", options.shortest, above=0, at_most=1)
    for name in ("max_products", "slice_length", "failures"):
        check_integer(f"second.{name}", getattr(options, name), at_least=1)
    return options


class Subproblem(NamedTuple):
    """Conjugate gradients under way: the point, its damping, and the iterates."""

    line: Linearization
    preconditioner: Preconditioner
    mu: jax.Array
    s: Any
    r: Any
    p: Any
    rho: jax.Array
    goal: jax.Array
    products: jax.Array


class Step(NamedTuple):
    """After one step: the point, its loss, μ, products used, whether it was accepted, whether it was the last."""

    params: Any
    value: float
    damping: float
    products: int
    accepted: bool
    last: bool


@jax.jit
def _begin(objective: SecondOrderObjective, x: Any, mu: jax.Array, forcing: jax.Array) -> Subproblem:
    line = objective.linearize(x, gauss_newton=True)
    preconditioner = objective.preconditioner(x)
    r = jax.tree.map(jnp.negative, line.gradient)
    y = preconditioner.solve(r, relative=mu)
    rho = tree_dot(r, y)
    zero = jax.tree.map(jnp.zeros_like, r)
    return Subproblem(line, preconditioner, mu, zero, r, y, rho, forcing**2 * rho, jnp.int32(0))


def _damped(sub: Subproblem, v: Any) -> Any:
    """`μ × scale × v` for each block; scales have shape () or (h,), blocks (…) or (h, …)."""
    scale = sub.preconditioner.scale()
    return jax.tree.map(lambda c, a: sub.mu * c.reshape(c.shape + (1,) * (a.ndim - c.ndim)) * a, scale, v)


@jax.jit
def _advance(sub: Subproblem, limit: jax.Array) -> Subproblem:
    """Conjugate gradients up to `limit` products in all."""

    def body(c: Subproblem) -> Subproblem:
        with steering():
            moved = c.line.hvp(c.p)
        hp = jax.tree.map(jnp.add, moved, _damped(c, c.p))
        alpha = c.rho / tree_dot(c.p, hp)
        s, r = tree_axpy(alpha, c.p, c.s), tree_axpy(-alpha, hp, c.r)
        y = c.preconditioner.solve(r, relative=c.mu)
        rho = tree_dot(r, y)
        return c._replace(s=s, r=r, p=tree_axpy(rho / c.rho, c.p, y), rho=rho, products=c.products + 1)

    return jax.lax.while_loop(lambda c: (c.rho > c.goal) & (c.products < limit), body, sub)


@jax.jit
def _predicted(sub: Subproblem) -> jax.Array:
    """The decrease that the linear model without damping predicts for the step s."""
    # With (H + D) s = -g - r: -gᵀs - sᵀHs/2 = (-gᵀs + rᵀs + sᵀDs) / 2.
    damped = tree_dot(sub.s, _damped(sub, sub.s))
    return (tree_dot(sub.r, sub.s) - tree_dot(sub.line.gradient, sub.s) + damped) / 2


@jax.jit
def _tried(objective: SecondOrderObjective, x: Any, s: Any, length: jax.Array) -> tuple[Any, jax.Array]:
    """The point `x + length s` and its loss."""
    trial = tree_axpy(length, s, x)
    return trial, objective.value(trial)


def _search(objective: SecondOrderObjective, x: Any, s: Any, value: float, predicted: float, shortest: float):
    """The best of the whole step and, where it falls short, of its halves: point, loss, ratio of the whole step.

    A loss costs as much as half a product, a step of conjugate gradients up to a hundred: shortening comes first.
    """
    dtype = jax.tree.leaves(x)[0].dtype
    best, lowest, ratio, length = x, value, 0.0, 1.0
    while length >= shortest:
        trial, new = programs(_tried, objective, x, s, jnp.asarray(length, dtype))
        if length == 1.0 and predicted > 0:
            ratio = (value - float(new)) / predicted
        if float(new) < lowest:
            best, lowest = trial, float(new)
        elif lowest < value:
            break
        if ratio > 0.25:
            break
        length /= 2
    return best, lowest, ratio


def moved_damping(mu: float, ratio: float, smallest: float) -> float:
    """μ after a step whose decrease was `ratio` times the predicted one."""
    if ratio > 0.5:
        return max(mu / 4, smallest)
    if ratio > 0.25:
        return max(mu / 1.5, smallest)
    return mu * 2 if ratio > 0 else mu * 4


def announce_steps(objective: SecondOrderObjective, x: Any) -> None:
    """Begin to compile what `gauss_newton_steps` will need for an objective and unknowns of these shapes."""
    number = jax.ShapeDtypeStruct((), jax.tree.leaves(x)[0].dtype)
    sub = programs.announce(_begin, objective, x, number, number)
    programs.announce(_advance, sub, jax.ShapeDtypeStruct((), jnp.int32))
    programs.announce(_predicted, sub)
    programs.announce(_tried, objective, x, x, number)


def gauss_newton_steps(
    objective: SecondOrderObjective, x: Any, options: Options | None = None, expired: Callable[[], bool] = lambda: False
) -> Iterator[Step]:
    """Steps from x, one at a time; the caller decides when to stop. `expired()` true cuts a step short, and ends it.

    Cost: per step a value and gradient, a preconditioner, and at most `max_products` Gauss–Newton products.
    """
    options = options or Options()
    value, mu, failures, last = float(objective.value(x)), options.damping, 0, False
    dtype = jax.tree.leaves(x)[0].dtype
    while not last:
        sub = programs(_begin, objective, x, jnp.asarray(mu, dtype), jnp.asarray(options.forcing, dtype))
        goal, done, late = float(sub.goal), 0, False
        while done < options.max_products and float(sub.rho) > goal and not late:
            sub = programs(_advance, sub, jnp.int32(min(done + options.slice_length, options.max_products)))
            done, late = int(sub.products), expired()
        x, new, ratio = _search(objective, x, sub.s, value, float(programs(_predicted, sub)), options.shortest)
        accepted, value, mu = new < value, new, moved_damping(mu, ratio, options.smallest)
        failures = 0 if accepted else failures + 1
        last = late or failures >= options.failures or done == 0
        yield Step(x, value, mu, done, accepted, last)
