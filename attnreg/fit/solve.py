"""`solve`: one call for a problem or an objective, and the cost model behind `method="auto"`."""

import dataclasses
import difflib
from typing import Any, Literal

from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Objective
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_choice, check_number
from attnreg.problems.one_layer import OneLayerRegression
from attnreg.solvers.base import Effort, Solver
from attnreg.solvers.gradient_descent import GradientDescent
from attnreg.solvers.lbfgs import LBFGS
from attnreg.solvers.newton import Newton
from attnreg.solvers.newton_cg import NewtonCG
from attnreg.solvers.optax import Optax
from attnreg.solvers.result import Result

METHODS = ("auto", "newton", "newton_cg", "lbfgs", "adam", "gradient_descent")
_SOLVERS: dict[str, type[Solver]] = {"newton": Newton, "newton_cg": NewtonCG, "gradient_descent": GradientDescent}
# What the two optax methods take besides `tol` and `max_steps`, with their defaults here.
_OPTAX: dict[str, dict[str, Any]] = {"lbfgs": dict(memory_size=10), "adam": dict(learning_rate=1e-2)}
# What "auto" takes: the options that mean the same to whichever solver it picks.
_COMMON = ("curvature", "max_steps", "tol")

# Newton's Hessian and its factor: two (p, p) matrices of 8 bytes an entry stay below 1.2 GB.
DENSE_UNKNOWNS = 8192
# Gradients that a Newton-CG step is taken to cost: its value and gradient, a preconditioner, and a dozen products.
NEWTON_CG_STEP = 30


# Below so many flops of `QUICK_WORK` a solve takes less than 0.2 s however it is compiled.
QUICK_FLOPS = 2e9
QUICK_WORK = (50, 10)  # gradients, and Hessians with their factors: a solve's, more or less


def choose_method(objective: Any) -> tuple[str, str]:
    """The method "auto" stands for and the reason, from `objective.costs()`.

    Dense Newton when its matrix fits (p ≤ `DENSE_UNKNOWNS`) and one step, a Hessian and p³/3 flops, costs no more than
    `NEWTON_CG_STEP` gradients, which is about what a step of Newton-CG costs; Newton-CG otherwise. Newton needs fewer
    steps and does not mind bad conditioning, so it is the choice at equal cost. An objective without curvature gets
    L-BFGS.

    Args:
        objective: of the solve.

    Returns:
        The method and the reason.

    Cost: none; nothing is evaluated.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.objectives.attention import AttentionObjective
        >>> from attnreg.problems.attention import AttentionRegression
        >>> A = jnp.ones((8, 2))
        >>> choose_method(AttentionObjective(AttentionRegression(A, A, jnp.ones((8, 8)) / 8)))[0]
        'newton'
    """
    if not all(hasattr(objective, name) for name in (*Newton.NEEDS, *NewtonCG.NEEDS)):
        return "lbfgs", "the objective has no curvature"
    costs = objective.costs()
    if costs is None:
        return "newton_cg", "the objective has no cost model"
    if costs.unknowns > DENSE_UNKNOWNS:
        return "newton_cg", f"{costs.unknowns} unknowns: a dense Hessian would not fit ({DENSE_UNKNOWNS} is the limit)"
    step = (costs.hessian + costs.unknowns**3 / 3) / costs.gradient
    if step <= NEWTON_CG_STEP or costs.unknowns <= 64:
        return "newton", f"{costs.unknowns} unknowns: a dense Newton step costs {step:.1f} gradients"
    return "newton_cg", f"a dense Newton step would cost {step:.0f} gradients, more than {NEWTON_CG_STEP}"


def choose_effort(objective: Any) -> Effort:
    """The compiler's effort that "auto" stands for: "quick" where the cost model says that solving is the lesser part.

    A solve of `QUICK_WORK` is compared with `QUICK_FLOPS`. Without a cost model it is "full".

    >>> import jax.numpy as jnp
    >>> from attnreg.problems.vector import LinearRegression
    >>> choose_effort(AttentionObjective(LinearRegression(jnp.ones((2, 1)), jnp.ones(2))))
    'quick'
    """
    costs = objective.costs()
    if costs is None:
        return "full"
    gradients, hessians = QUICK_WORK
    work = gradients * costs.gradient
    if costs.unknowns <= DENSE_UNKNOWNS:
        work += hessians * (costs.hessian + costs.unknowns**3 / 3)
    return "quick" if work <= QUICK_FLOPS else "full"


def make_solver(method: str, **options: Any) -> Solver:
    """A solver by name, the defaults being those of its class.

    Args:
        method: "newton", "newton_cg", "lbfgs" (optax), "adam" (optax) or "gradient_descent".
        options: `tol`, `max_steps` and what the method's class takes: `Newton`, `NewtonCG`, `GradientDescent`;
            `memory_size` for "lbfgs", `learning_rate` (on the loss divided by its value at the start) for "adam".

    Returns:
        The solver; equal arguments give equal solvers, which share their compiled programs.

    Raises: ProblemError for an unknown method or an option that the method does not have.

    Example:
        >>> make_solver("newton_cg", max_cg=3).max_cg
        3
    """
    check_choice("method", method, METHODS[1:])
    check_options(method, options)
    if method in _OPTAX:
        limits = {name: options[name] for name in ("tol", "max_steps") if name in options}
        own = _OPTAX[method] | {name: value for name, value in options.items() if name not in limits}
        for name, value in own.items():
            check_number(name, value, above=0)
        return Optax.named(method, **limits, **own)
    return _SOLVERS[method](**options)


def options_of(method: str) -> tuple[str, ...]:
    """The names of the options that a method takes.

    >>> options_of("adam")
    ('learning_rate', 'max_steps', 'tol')
    """
    if method == "auto":
        return _COMMON
    if method in _OPTAX:
        return tuple(sorted(("tol", "max_steps", *_OPTAX[method])))
    return tuple(sorted(field.name for field in dataclasses.fields(_SOLVERS[method])))  # type: ignore[arg-type]


def check_options(method: str, options: dict[str, Any]) -> None:
    """Refuse options that a method does not have, by name."""
    known = options_of(method)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            where = "; name the method to set options of its own" if method == "auto" else ""
            raise ProblemError(f"method {method!r} has no option {name!r}: {hint}it takes {', '.join(known)}{where}")


def objective_of(problem: Any) -> Any:
    """The objective of a problem in its full unknowns; an objective is returned as it is."""
    if isinstance(problem, Objective):
        return problem
    if isinstance(problem, AttentionRegression):
        return AttentionObjective(problem)
    if isinstance(problem, OneLayerRegression):
        return OneLayerObjective(problem)
    raise ProblemError(
        f"problem is a {type(problem).__name__}; it must be an AttentionRegression, a OneLayerRegression "
        "or an objective"
    )


def solve(
    problem: Any,
    start: Any = None,
    *,
    method: str = "auto",
    effort: Literal["auto", "full", "quick"] = "auto",
    **options: Any,
) -> Result:
    """Minimise the loss of a problem.

    Args:
        problem: an `AttentionRegression` (unknown X (d1, d2)) or `OneLayerRegression` (unknowns X, Y), or an objective
            of your choice, for example `FactoredObjective(problem, rank)`.
        start: unknowns to start from; None is `objective.start()`.
        method: one of `METHODS`. options: see `make_solver`; "auto" takes tol, max_steps and curvature.
        effort: the compiler's: "quick" compiles three times faster on a CPU, and runs two to three times longer. "auto"
            takes it for a problem that is solved in less than about 0.2 s (`choose_effort`). Where you solve many
            problems of one shape, take "full".

    Returns:
        `Result`: `params` is the answer, `converged` says whether to trust it, `message` what happened.

    Precision: the gradient norm falls to `tol` times its norm at the start (None: 1e-8 in float64, 1e-4 in float32), or
    to its rounding error, and `message` says which.
    Cost: see the solver that `choose_method` names.
    Raises: ProblemError for an unknown method, an option that it does not have, or a start of another shape.
    Source: docs/guides/fitting.md.

    Example:
        >>> import jax
        >>> from attnreg.data.synthetic import attention_instance
        >>> problem, truth = attention_instance(jax.random.key(0), n=16, d=2)
        >>> result = solve(problem)
        >>> bool(result.converged)
        True
    """
    objective = objective_of(problem)
    check_choice("method", method, METHODS)
    check_choice("effort", effort, ("auto", "full", "quick"))
    check_options(method, options)
    if method == "auto":
        method, _ = choose_method(objective)
        solver = LBFGS(**options) if method == "lbfgs" else make_solver(method, **options)
    else:
        solver = make_solver(method, **options)
    how = choose_effort(objective) if effort == "auto" else effort
    return solver.run(objective, objective.start() if start is None else start, effort=how)
