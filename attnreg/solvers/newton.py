"""Damped Newton with the exact dense Hessian: the solver for small unknowns (d1·d2 up to a few thousand)."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.lift.precision import steering
from attnreg.problems.checks import check_choice, check_integer, check_number
from attnreg.solvers.base import Solver
from attnreg.solvers.result import Status, status_of
from attnreg.solvers.search import SETTLED, Model, Rules, Search, begin, either, trials
from attnreg.solvers.secant import no_pairs
from attnreg.solvers.state import State, count, counted, select, tree_norm
from attnreg.solvers.trial import flat_gradient

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
        """One factorisation: a Newton step and the chord steps it is good for. Step 0 may be a warm-up."""
        budget = self._budget(objective, ravel_pytree(state.params)[0].size)
        if budget == 0:
            return self._step(objective, state, 0, False)
        first = state.steps == 0
        if self.coarse_dtype is None:
            return self._step(objective, state, budget, first)
        return jax.lax.cond(
            first,
            lambda: self._coarse_warm_up(objective, state, budget),
            lambda: self._step(objective, state, 0, False),
        )

    def _budget(self, objective, p: int) -> int:
        """Evaluations that the warm-up may take."""
        if self.warmup is not None:
            return self.warmup
        costs = objective.costs()
        return DEFAULT_BUDGET if costs is None else int(3 * (costs.hessian + p**3 / 3) / costs.gradient)

    def _step(self, objective: Any, state: State, budget: int, warm: Any) -> State:
        """Models and trials on them until no further one is worth it: a step. `warm` says whether it is the warm-up."""
        goal = either(warm, lambda: self._settled(state), lambda: self.goal(state))
        rules = Rules(goal, budget, self.chord, self.memory)

        def one_model(carry):
            inner, search, hessians = carry
            model, inner, formed, good = self._model(objective, inner, search.state, budget > 0, warm)
            # An exact Hessian that is not positive definite: the same point again, with Gauss–Newton.
            again = ~good & inner.exact
            inner = inner._replace(exact=inner.exact & good, kept=inner.kept & good)
            search = search._replace(pairs=no_pairs(self.memory, flat_gradient(state)), going=search.going & good)
            search = trials(objective, search, model, rules, warm)
            return inner, search._replace(going=search.going | again), hessians + formed

        start = (state.inner, begin(state, self.memory), jnp.int32(0))
        inner, search, hessians = jax.lax.while_loop(lambda c: c[1].going, one_model, start)
        state = counted(search.state, hessians=hessians)
        judged, stuck = self._judged(inner, search)
        status = status_of(stuck & ~jnp.asarray(warm), Status.STALLED, state.status)
        inner = select(warm, self._warmed(inner, state), judged)
        return state._replace(inner=inner, status=status, steps=state.steps + 1)

    def _settled(self, state: State) -> jax.Array:
        """The gradient norm at which the warm-up has done its work."""
        return jnp.maximum(SETTLED, self.tolerance(state.value.dtype)) * state.start_gradient_norm

    def _warmed(self, inner: Inner, state: State) -> Inner:
        """What is remembered after the warm-up: near a minimum the exact Hessian is the better model, and positive."""
        near = (state.gradient_norm <= self._settled(state)) & (self.curvature != "gauss_newton")
        return inner._replace(exact=inner.exact | near)

    def _model(self, objective: Any, inner: Inner, state: State, warms: bool, warm: Any):
        """A `Model` at the state, what is remembered, how many Hessians were formed, and whether it is of use."""

        def factorise():
            hessian = jax.lax.cond(inner.kept, lambda: inner.hessian, lambda: self._hessian(objective, inner, state))
            return hessian, *_cholesky(hessian, inner.damping)

        if not warms:
            kronecker, (hessian, factor, shift) = None, factorise()
        else:
            approximate = lambda: objective.preconditioner(state.params)  # noqa: E731
            empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(approximate))
            nothing = inner.hessian, inner.hessian, jnp.zeros((), inner.hessian.dtype)
            kronecker, (hessian, factor, shift) = either(
                warm, lambda: (approximate(), nothing), lambda: (empty, factorise())
            )
        good = warm | jnp.all(jnp.isfinite(jnp.diagonal(factor)))
        formed = jnp.where(warm | inner.kept, 0, 1)
        return Model(kronecker, factor, shift), inner._replace(hessian=hessian), formed, good

    def _hessian(self, objective: Any, inner: Inner, state: State) -> jax.Array:
        """The dense curvature that the options ask for, in the coarse precision if there is one."""
        terms = objective, state.params
        if self.coarse_dtype is not None:
            terms = as_dtype(self.coarse_dtype, terms)
        with steering():
            if self.curvature == "gauss_newton":
                return terms[0].value_grad_hessian(terms[1], gauss_newton=True)[2]
            return terms[0].chosen_hessian(terms[1], ~inner.exact)

    def _judged(self, inner: Inner, search: Search) -> tuple[Inner, jax.Array]:
        """What is remembered after the trials on one factor, and whether the damping has outgrown everything."""
        damping, growth = nielsen(inner.damping, inner.growth, search.accepted, search.ratio)
        moved = search.taken > 0
        saved, length = moved & ~search.accepted, jnp.where(moved, search.reached, 1)
        damping = jnp.where(saved, inner.damping * jnp.minimum(1 / length, 10), damping)
        growth = jnp.where(saved, inner.growth, growth)
        exact = inner.exact
        if self.curvature != "gauss_newton":
            exact = exact | (search.accepted & (search.ratio > 0.5))
        return Inner(damping, growth, inner.hessian, ~moved, exact), ~moved & (damping > 1e12)

    def _coarse_warm_up(self, objective: Any, state: State, budget: int) -> State:
        """Step 0 in the coarse precision; its point is judged, and if worse refused, in the objective's own."""
        low, at = as_dtype(self.coarse_dtype, (objective, state))
        coarse = dataclasses.replace(self, coarse_dtype=None)._step(low, at, budget, True)
        params = jax.tree.map(lambda x, like: x.astype(like.dtype), coarse.params, state.params)
        value, gradient = objective.value_and_grad(params)
        there = dict(params=params, value=value, gradient=gradient, gradient_norm=tree_norm(gradient))
        state = counted(state._replace(counts=coarse.counts, steps=coarse.steps), values=1, gradients=1)
        # Rounding, or an overflow of the narrower range, may have spoiled it.
        state = select(value <= state.value, state._replace(**there), state)
        return state._replace(inner=self._warmed(state.inner, state))


def as_dtype(dtype: Any, tree: Any) -> Any:
    """A pytree with its floating-point arrays in another precision."""

    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return jax.tree.map(cast, tree)


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
