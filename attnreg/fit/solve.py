"""`solve`: one call for any objective, and the cost model behind `method="auto"`."""

from typing import Any

import optax

from attnreg.objectives.base import Objective
from attnreg.solvers.base import Solver
from attnreg.solvers.gradient_descent import GradientDescent
from attnreg.solvers.newton import Newton
from attnreg.solvers.newton_cg import NewtonCG
from attnreg.solvers.optax import Optax
from attnreg.solvers.result import Result

METHODS = ("auto", "newton", "newton_cg", "lbfgs", "adam", "gradient_descent")

# Newton's Hessian and its factor: two p×p matrices of 8 bytes each stay below 1.2 GB.
DENSE_UNKNOWNS = 8192
# Gradients that a Newton-CG step is taken to cost: its value and gradient, a preconditioner, and a dozen products.
NEWTON_CG_STEP = 30


def choose_method(objective: Objective) -> tuple[str, str]:
    """The method "auto" stands for and the reason, from `objective.costs()`.

    Dense Newton when its matrix fits (p ≤ `DENSE_UNKNOWNS`) and one step, a Hessian and p³/3 flops, costs no more than
    `NEWTON_CG_STEP` gradients, which is about what a step of Newton-CG costs; Newton-CG otherwise. Newton needs fewer
    steps and does not mind bad conditioning, so it is the choice at equal cost.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.objectives.attention import AttentionObjective
        >>> from attnreg.problems.attention import AttentionRegression
        >>> A = jnp.ones((8, 2))
        >>> choose_method(AttentionObjective(AttentionRegression(A, A, jnp.ones((8, 8)) / 8)))[0]
        'newton'
    """
    costs = objective.costs()
    if costs is None:
        return "newton_cg", "the objective has no cost model"
    if costs.unknowns > DENSE_UNKNOWNS:
        return "newton_cg", f"{costs.unknowns} unknowns: a dense Hessian would not fit ({DENSE_UNKNOWNS} is the limit)"
    step = (costs.hessian + costs.unknowns**3 / 3) / costs.gradient
    if step <= NEWTON_CG_STEP or costs.unknowns <= 64:
        return "newton", f"{costs.unknowns} unknowns: a dense Newton step costs {step:.1f} gradients"
    return "newton_cg", f"a dense Newton step would cost {step:.0f} gradients, more than {NEWTON_CG_STEP}"


def make_solver(
    method: str, *, tol: float = 1e-8, max_steps: int | None = None, learning_rate: float = 1e-2, **options: Any
) -> Solver:
    """A solver by name: "newton", "newton_cg", "lbfgs" (optax), "adam" (optax), "gradient_descent".

    `max_steps` None is the solver's own default; `learning_rate` is Adam's, on the loss divided by its value at the
    start; `options` go to `Newton`, `NewtonCG`, `GradientDescent` or `optax.lbfgs`.
    """
    limits: dict[str, Any] = dict(tol=tol) if max_steps is None else dict(tol=tol, max_steps=max_steps)
    match method:
        case "newton":
            return Newton(**limits, **options)
        case "newton_cg":
            return NewtonCG(**limits, **options)
        case "lbfgs":
            return Optax(optax.lbfgs(**options), **limits)
        case "adam":
            return Optax(optax.adam(learning_rate, **options), **limits)
        case "gradient_descent":
            return GradientDescent(**limits, **options)
    raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")


def solve(objective: Objective, start: Any = None, *, method: str = "auto", **options: Any) -> Result:
    """Minimise an objective from `start` (default: zero unknowns).

    Args:
        objective: for example `AttentionObjective(problem)` or `FactoredObjective(problem, rank)`.
        start: unknowns to start from; zeros are a saddle of factored problems, use their `spectral_start()`.
        method: one of `METHODS`. options: see `make_solver`.

    Returns:
        `Result`; check `result.converged`, and `describe(result.status)` says what happened.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attnreg.data.synthetic import attention_instance
        >>> from attnreg.objectives.attention import AttentionObjective
        >>> problem, _ = attention_instance(jax.random.key(0), n=16, d=2)
        >>> result = solve(AttentionObjective(problem), tol=1e-3)
        >>> bool(result.converged)
        True
    """
    if method == "auto":
        method, _ = choose_method(objective)
    start = objective.zeros() if start is None else start
    return make_solver(method, **options).run(objective, start)
