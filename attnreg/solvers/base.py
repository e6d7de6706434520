"""The solver interface: `init` and `advance` are pure, `run` is one compiled loop, `run_on_host` shows progress.

A solver is a frozen dataclass of options (hashable, so it is static under jit). It sees an objective, never a loss.
"""

import abc
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from attnreg.objectives.base import Objective
from attnreg.problems.checks import LARGEST, ProblemError, check_choice, check_integer, check_number
from attnreg.solvers.host import Stopwatch, chunks, row_of
from attnreg.solvers.implicit import differentiable
from attnreg.solvers.result import Counts, History, Result, Status, status_of
from attnreg.solvers.state import State, tree_norm
from attnreg.solvers.verdict import settled

# Gradient norm, relative to the start's, that counts as solved when `tol` is None.
TOLERANCES = {8: 1e-8, 4: 1e-4}

Effort = Literal["full", "quick"]
# Most of a CPU's compiling is LLVM's optimisation and XLA's newer way of writing fused kernels. Without both a solver
# compiles in a quarter of the time, and its program runs two to three times longer. A module in one piece and loops as
# they are written save another fifth, and cost nothing.
QUICK: dict[str, int | bool | str] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion",
}


class Solver(abc.ABC):
    """Options of a solver. Subclasses are frozen dataclasses with the fields `tol` and `max_steps` at least.

    Args:
        tol: stop when the gradient norm is at most `tol` times its norm at the start; None follows the dtype
            (`TOLERANCES`: 1e-8 in float64, 1e-4 in float32).
        max_steps: calls of `advance` at most.

    NEEDS names the methods that the objective must have beyond those of a first-order one. CONTROL says what the
    column `History.control` is.

    Raises: ProblemError for an option out of range, an objective without what the solver needs, or a start of another
    shape.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ()
    CONTROL: ClassVar[str]

    tol: float | None
    max_steps: int

    def __post_init__(self) -> None:
        """Check the options that every solver has."""
        if self.tol is not None:
            check_number("tol", self.tol, at_least=0, below=1)
        check_integer("max_steps", self.max_steps, at_least=0, at_most=LARGEST - 1)

    @abc.abstractmethod
    def init(self, objective: Any, params: Any) -> State:
        """The state at the start."""

    @abc.abstractmethod
    def advance(self, objective: Any, state: State) -> State:
        """One iteration of a running state."""

    @abc.abstractmethod
    def control(self, state: State) -> jax.Array:
        """The scalar that `CONTROL` names."""

    def step(self, objective: Any, state: State) -> State:
        """One iteration; does nothing once `state.status` is not RUNNING."""
        running = state.status == Status.RUNNING
        return jax.lax.cond(running, lambda s: self.ended(self.advance(objective, s)), lambda s: s, state)

    def tolerance(self, dtype: Any) -> float:
        """`tol`, or the default of the dtype."""
        return TOLERANCES[jnp.dtype(dtype).itemsize] if self.tol is None else self.tol

    def goal(self, state: State) -> jax.Array:
        """The gradient norm that counts as solved, a scalar."""
        return self.tolerance(state.value.dtype) * state.start_gradient_norm

    def needs(self) -> tuple[str, ...]:
        """Names of the methods that these options need of an objective."""
        return self.NEEDS

    def accept(self, objective: Any, params: Any) -> None:
        """Refuse, before anything is compiled, an objective without what this solver needs, or a start that is not its
        unknown."""
        name = type(self).__name__
        if not isinstance(objective, Objective):
            raise ProblemError(
                f"objective is a {type(objective).__name__}; {name} needs an objective, for example "
                "AttentionObjective(problem)"
            )
        missing = [method for method in self.needs() if not hasattr(objective, method)]
        if missing:
            raise ProblemError(
                f"{name} needs {' and '.join(missing)}, which {type(objective).__name__} does not have; "
                "use a first-order solver: LBFGS, or Optax"
            )
        objective.check(params, "start" if not isinstance(params, tuple) else "")

    def begin(self, params: Any, value: jax.Array, gradient: Any, *, inner: Any, counts: jax.Array) -> State:
        """Common part of `init`."""
        norm = tree_norm(gradient)
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        status = status_of(ok, Status.RUNNING, Status.BAD_START)
        return State(
            params=params,
            value=value,
            gradient=gradient,
            gradient_norm=norm,
            start_value=value,
            start_gradient_norm=norm,
            status=status_of(ok & (norm == 0), Status.STATIONARY, status),
            steps=jnp.zeros((), jnp.int32),
            counts=counts,
            inner=inner,
        )

    def ended(self, state: State) -> State:
        """`state` with CONVERGED set where the tolerance is met."""
        done = (state.status == Status.RUNNING) & (state.gradient_norm <= self.goal(state))
        return state._replace(status=status_of(done, Status.CONVERGED, state.status))

    def run(self, objective: Any, params: Any, *, effort: Effort = "full") -> Result:
        """Solve from `params` in one compiled loop; can be jitted and vmapped over objectives and starts.

        effort: the compiler's. "quick" compiles three times faster a program that runs two to three times longer, for
        what is solved once and is small. It does nothing on accelerators, and inside `jit` and `vmap`.

        Inside `jit` or `vmap` the status is the first verdict; see `attnreg.solvers.settled`. `params` and `value` are
        differentiable in the arrays of the objective by the implicit function theorem, not through the loop; see
        `attnreg.solvers.implicit_solution`.
        """
        check_choice("effort", effort, ("full", "quick"))
        self.accept(objective, params)
        start = jax.lax.stop_gradient(params)

        def solve(objective):
            quick = effort == "quick" and _on_cpu((objective, start))
            result = (_run_quickly if quick else _run)(self, objective, start)
            return result if isinstance(result.status, jax.core.Tracer) else settled(objective, start, result)

        return differentiable(objective, solve)

    def iterate(self, objective: Any, params: Any, *, state: State | None = None, chunk: int = 1) -> Iterator[State]:
        """States from a host loop, the start and then one every `chunk` steps; ends by itself when the solver does.

        The steps of a chunk are one dispatch, and the device itself stops inside one: the states are those of single
        steps. Pass `state` (for example from a checkpoint) to go on from there; `params` then only gives shapes.
        The program is compiled before the first state is handed out, so what a caller times is the work.
        """
        return (now for now, _ in chunks(self, objective, params, state, chunk))

    def run_on_host(
        self,
        objective: Any,
        params: Any,
        *,
        callback: Callable[[State, float], None] | None = None,
        seconds: float = float("inf"),
        chunk: int = 1,
    ) -> Result:
        """The same solve with a host loop: `callback(state, elapsed)` every `chunk` steps, stopped after `seconds`.

        Neither compilation nor the callback is on the clock. Steps of one chunk have the same time in the history.
        """
        check_number("seconds", seconds, at_least=0, infinite=True)
        clock = Stopwatch()
        rows: list[np.ndarray] = []
        state = None
        for state, new in clock.time(chunks(self, objective, params, None, chunk)):
            late = clock.seconds >= seconds and int(state.status) == Status.RUNNING
            if late:
                state = state._replace(status=jnp.asarray(Status.OUT_OF_TIME, jnp.int32))
            rows.append(np.column_stack([new, np.full(len(new), clock.seconds, new.dtype)]))
            if callback is not None:
                callback(state, clock.seconds)
            if late:
                break
        assert state is not None, "a solver hands out its start"
        history = History(*(jnp.asarray(column) for column in np.concatenate(rows).T))
        return settled(objective, params, finished(state, history))


def finished(state: State, history: History) -> Result:
    """The `Result` of a solve that ends in `state`."""
    status = status_of(state.status == Status.RUNNING, Status.MAX_STEPS, state.status)
    return Result(state.params, state.value, state.gradient_norm, status, state.steps, Counts(*state.counts), history)


def _on_cpu(tree: Any) -> bool:
    """Whether all arrays are concrete, and none is on another device than CPUs."""
    leaves = jax.tree.leaves(tree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return False
    devices = [device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()]
    return {device.platform for device in devices or jax.devices()} == {"cpu"}


def _run_quickly(solver: Solver, objective: Any, params: Any) -> Result:
    while True:
        try:
            return _with_options(tuple(_known))(solver, objective, params)
        except jax.errors.JaxRuntimeError as error:
            unknown = re.search(r"No such compile option: '(\w+)'", str(error))
            if unknown is None or unknown[1] not in _known:
                raise
            _known.remove(unknown[1])  # releases of XLA differ in what they know


_known = list(QUICK)


@functools.cache
def _with_options(names: tuple[str, ...]) -> Callable[[Solver, Any, Any], Result]:
    options = {name: QUICK[name] for name in names}
    return jax.jit(_loop, static_argnums=0, compiler_options=options)


def _loop(solver: Solver, objective: Any, params: Any) -> Result:
    state = solver.ended(solver.init(objective, params))
    empty = jnp.full((solver.max_steps + 1, 3), jnp.nan, state.value.dtype)
    start = empty.at[0].set(row_of(solver, state))

    def unfinished(carry):
        state, _ = carry
        return (state.status == Status.RUNNING) & (state.steps < solver.max_steps)

    def advance(carry):
        state, rows = carry
        state = solver.ended(solver.advance(objective, state))
        return state, jax.lax.dynamic_update_slice_in_dim(rows, row_of(solver, state)[None], state.steps, axis=0)

    state, rows = jax.lax.while_loop(unfinished, advance, (state, start))
    return finished(state, History(*rows.T, seconds=empty[:, 0]))


_run = jax.jit(_loop, static_argnums=0)
