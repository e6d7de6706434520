"""Damped Newton with the exact dense Hessian: the solver for small unknowns (d1·d2 up to a few thousand)."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.problems.checks import check_choice, check_integer, check_number
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.secant import corrected_solve, no_pairs, push
from attnreg.solvers.state import State, count, counted
from attnreg.solvers.trial import backtrack, flat_gradient, move
from attnreg.solvers.warm_up import as_dtype, coarse_warm_up, kronecker_warm_up, settled_norm

CURVATURES = ("auto", "exact", "gauss_newton")
DEFAULT_BUDGET = 20  # warm-up evaluations without a cost model


class Inner(NamedTuple):
    """What Newton remembers from step to step.

    damping: λ, relative. growth: of λ at the next failure. hessian: of the current point, when `kept`. exact: whether
    the exact Hessian is to be tried.
    """

    damping: jax.Array
    growth: jax.Array

    hessian: jax.Array
    kept: jax.Array
    exact: jax.Array


@dataclasses.dataclass(frozen=True)
class Newton(Solver):
    """Levenberg-damped Newton, `(H + λ s I) δ = −g` by Cholesky with `s` the mean of |diag H|, and chord steps.

    * Curvature "auto": Gauss–Newton while the model predicts badly, the exact Hessian as soon as it is good, and
      Gauss–Newton again wherever the exact `H + λ s I` is not positive definite. "gauss_newton" never tries the exact
      one.
    * λ follows the ratio of actual to predicted decrease (Nielsen's rule) and never falls below `eps^(2/3)`: the
      softmax gauge and rank-deficient data make H singular; this floor pins the undetermined directions and leaves the
      fast phase fast.
    * A step that fails is shortened up to twice along its direction, which costs a gradient each where another
      damping would cost a factorisation; only then λ grows.
    * A Hessian costs several gradients, so one factorisation serves further steps (Shamanskii's chord steps) as long as
      each cuts the gradient norm to `chord` of what it was; their secant pairs correct the factorisation (BFGS updates
      of it, `attnreg.solvers.secant`), which makes them converge superlinearly.
    * Step 0 is a warm-up that needs no Hessian: the same BFGS corrections around the Kronecker approximation (at X = 0
      that is the exact Gauss–Newton matrix of a normalized problem with one document), until the gradient norm has
      fallen to `SETTLED` of the start's or about three Hessians' worth of gradients is spent.
    * `coarse_dtype="float32"` does what only steers in float32, at half the price: the warm-up, the Hessian and its
      factor. The corrected chord steps do not notice while the condition number stays below about 1e5, and values and
      gradients from step 1 on keep their precision.

    Args:
        tol, max_steps: see `Solver`; a step is one factorisation, accepted or not, and the warm-up is one step.
        damping: λ at the start, relative to s.
        curvature: "auto", "exact" (as auto, but exact from the first step) or "gauss_newton".
        chord: largest gradient-norm ratio at which a factorisation is used once more; 0 never reuses.
        memory: secant pairs kept on one factorisation; 0 makes plain chord steps.
        warmup: evaluations of the warm-up at most; None follows `objective.costs()`, 0 leaves it out.
        coarse_dtype: of warm-up, Hessian and factor; None is the objective's own.

    Precision: the gradient norm falls to `tol` times its norm at the start, or to its rounding error; the status says
    which (tests/solvers/test_solver_table.py, tests/solvers/test_verdicts.py).
    Cost: per step one Hessian (see `AttentionObjective`), p³/3 flops and p² memory for p unknowns, and a gradient per
    chord step.
    Raises: ProblemError for an option out of range.
    Source: Levenberg and Nielsen's damping, Shamanskii's chord steps; the combination is docs/decisions.md's.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("value_grad_hessian", "preconditioner")
    CONTROL: ClassVar[str] = "Levenberg damping λ, relative to the mean of |diag H|"

    tol: float | None = None
    max_steps: int = 100
    damping: float = 1e-3
    curvature: str = "auto"
    chord: float = 0.3
    memory: int = 10
    warmup: int | None = None
    coarse_dtype: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("damping", self.damping, at_least=0)
        check_choice("curvature", self.curvature, CURVATURES)
        check_number("chord", self.chord, at_least=0, at_most=1)
        check_integer("memory", self.memory, at_least=0)
        if self.warmup is not None:
            check_integer("warmup", self.warmup, at_least=0)
        check_choice("coarse_dtype", self.coarse_dtype, (None, "float32", "float64"))

    def init(self, objective: Any, params: Any) -> State:
        """Value and gradient at the start."""
        value, gradient = objective.value_and_grad(params)
        p = ravel_pytree(params)[0].size
        empty = jnp.zeros((p, p), self.coarse_dtype or value.dtype)
        damping, growth = (jnp.asarray(x, value.dtype) for x in (self.damping, 2))
        inner = Inner(damping, growth, empty, jnp.asarray(False), jnp.asarray(self.curvature == "exact"))
        return self.begin(params, value, gradient, inner=inner, counts=count(values=1, gradients=1))

    def control(self, state: State) -> jax.Array:
        """λ."""
        return state.inner.damping

    def advance(self, objective: Any, state: State) -> State:
        """One factorisation: a Newton step and the chord steps it is good for."""
        budget = self._budget(objective, ravel_pytree(state.params)[0].size)
        if budget == 0:
            return self._newton(objective, state)
        return jax.lax.cond(
            state.steps == 0,
            lambda: self._warm_up(objective, state, budget),
            lambda: self._newton(objective, state),
        )

    def _budget(self, objective, p: int) -> int:
        """Evaluations that the warm-up may take."""
        if self.warmup is not None:
            return self.warmup
        costs = objective.costs()
        return DEFAULT_BUDGET if costs is None else int(3 * (costs.hessian + p**3 / 3) / costs.gradient)

    def _warm_up(self, objective, state, budget):
        """Step 0 (`attnreg.solvers.warm_up`)."""
        options: Any = dict(budget=budget, memory=self.memory, tol=self.tolerance(state.value.dtype))
        if self.coarse_dtype is None:
            state = kronecker_warm_up(objective, state, **options)
        else:
            state = coarse_warm_up(self.coarse_dtype, objective, state, **options)
        # Near a minimum the exact Hessian is the better model, and positive definite.
        near = state.gradient_norm <= settled_norm(state, options["tol"])
        settled = near & (self.curvature != "gauss_newton")
        inner = state.inner._replace(exact=state.inner.exact | settled)
        return state._replace(inner=inner, steps=state.steps + 1)

    def _newton(self, objective, state):
        """Factorise, step (shortened where needed), then chord steps."""
        factor, shift, inner, hessians = self._factorise(objective, state)
        state = counted(state._replace(inner=inner), hessians=hessians)
        before = state
        delta = -_solve(factor, flat_gradient(state))
        predicted = (shift.astype(delta.dtype) * delta @ delta - flat_gradient(state) @ delta) / 2
        state, accepted, ratio, value = move(objective, state, delta, predicted)
        shortened, length = backtrack(objective, state, delta, value, accepted)
        damping, growth = nielsen(inner.damping, inner.growth, accepted, ratio)
        saved = length > 0
        damping = jnp.where(saved, inner.damping * jnp.minimum(1 / jnp.where(saved, length, 1), 10), damping)
        growth = jnp.where(saved, inner.growth, growth)
        exact = inner.exact | (accepted & (ratio > 0.5)) if self.curvature != "gauss_newton" else inner.exact
        if self.chord > 0:
            eager = accepted & (ratio > 0.1) & (state.gradient_norm <= self.chord * before.gradient_norm)
            state = self._chord(objective, shortened, before, factor, eager)
        else:
            state = shortened
        moved = accepted | saved
        status = status_of(~moved & (damping > 1e12), Status.STALLED, state.status)
        inner = state.inner._replace(damping=damping, growth=growth, kept=~moved, exact=exact)
        return state._replace(inner=inner, status=status, steps=state.steps + 1)

    def _chord(self, objective, state, before, factor, eager):
        """Further steps with the same factor, corrected by their secant pairs, while each is worth it."""

        def pair(pairs, old, new):
            s = ravel_pytree(new.params)[0] - ravel_pytree(old.params)[0]
            return push(pairs, s, flat_gradient(new) - flat_gradient(old)) if self.memory else pairs

        def worth_it(carry):
            state, _, eager = carry
            return eager & (state.gradient_norm > self.goal(state))

        def again(carry):
            old, pairs, _ = carry
            delta = -corrected_solve(pairs, lambda g: _solve(factor, g), flat_gradient(old))
            state, accepted, _, _ = move(objective, old, delta, -flat_gradient(old) @ delta / 2)
            better = state.gradient_norm <= self.chord * old.gradient_norm
            return state, pair(pairs, old, state), accepted & better

        pairs = pair(no_pairs(self.memory, flat_gradient(state)), before, state)
        return jax.lax.while_loop(worth_it, again, (state, pairs, eager))[0]

    def _factorise(self, objective, state):
        """Cholesky factor of the damped Hessian, its shift, the kept Hessian, and how many Hessians were formed."""
        inner = state.inner

        def evaluate(gauss_newton):
            terms = objective, state.params
            if self.coarse_dtype is not None:
                terms = as_dtype(self.coarse_dtype, terms)
            return terms[0].value_grad_hessian(terms[1], gauss_newton=gauss_newton)[2]

        def fresh():
            if self.curvature == "gauss_newton":
                return evaluate(True)
            return jax.lax.cond(inner.exact, lambda: evaluate(False), lambda: evaluate(True))

        hessian = jax.lax.cond(inner.kept, lambda: inner.hessian, fresh)
        hessians = jnp.where(inner.kept, 0, 1)
        factor, shift = _cholesky(hessian, inner.damping)
        if self.curvature == "gauss_newton":
            return factor, shift, inner._replace(hessian=hessian), hessians
        good = jnp.all(jnp.isfinite(jnp.diagonal(factor)))

        def fallback():
            gauss_newton = evaluate(True)
            return gauss_newton, *_cholesky(gauss_newton, inner.damping)

        hessian, factor, shift = jax.lax.cond(good, lambda: (hessian, factor, shift), fallback)
        inner = inner._replace(hessian=hessian, exact=inner.exact & good)
        return factor, shift, inner, hessians + jnp.where(good, 0, 1)


def _solve(factor: jax.Array, g: jax.Array) -> jax.Array:
    """`(L Lᵀ)⁻¹ g` in the factor's precision, whatever the size of g."""
    size = jnp.linalg.norm(g)
    size = jnp.where(size > 0, size, jnp.ones_like(size))
    return jax.scipy.linalg.cho_solve((factor, True), (g / size).astype(factor.dtype)).astype(g.dtype) * size


def _cholesky(hessian, damping):
    """Factor of `H + shift I` and the shift `damping · mean|diag H|`; NaN where that is not positive definite."""
    damping = jnp.maximum(damping.astype(hessian.dtype), floor_of(hessian.dtype))
    shift = damping * jnp.mean(jnp.abs(jnp.diagonal(hessian)))
    shift = jnp.maximum(shift, jnp.finfo(hessian.dtype).tiny)
    return jnp.linalg.cholesky(hessian + shift * jnp.eye(hessian.shape[0], dtype=hessian.dtype)), shift


def floor_of(dtype: Any) -> float:
    """The least relative damping, `eps^(2/3)`."""
    return float(jnp.finfo(dtype).eps) ** (2 / 3)


def nielsen(
    damping: jax.Array, growth: jax.Array, accepted: jax.Array, ratio: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Damping and growth after a step: shrink by how well the model predicted, grow twice as fast at each failure."""
    floor = floor_of(damping.dtype)
    shrink = jnp.maximum(0.1, 1 - (2 * ratio - 1) ** 3)
    shrink = jnp.where(ratio > 0.9, 0.01, shrink)
    new = jnp.where(accepted, damping * shrink, damping * growth)
    faster = jnp.where(accepted, 2.0, 2 * growth)
    return jnp.maximum(new, floor).astype(damping.dtype), faster.astype(growth.dtype)
