"""Existing solvers under one roof: scipy, optax, optimistix, jaxopt and a naive Newton, on the plain autodiff loss.

How each is treated, in its favour where there was a choice:

* the loss is divided by its value at the start (several libraries stop at once on small losses otherwise);
* tolerances of its own are off; it ends when the gradient norm has fallen to `tol` times that at the start;
* a compiled peer is first run with that test after every step, which finds how many steps it needs; timed is that
  number of steps in one compiled loop without any test;
* the time cap of a trial run counts CPU seconds, so that a busy machine fails nobody;
* one that rounding stops short of `tol` (line searches and gain ratios that compare losses) is timed to 100 times it;
* every setting in its list runs, and the best one per problem counts.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import optimistix
import scipy.optimize

from experiments.benchmarks.cells import Cell

with warnings.catch_warnings():
    # It announces on import that it is no longer maintained; it is measured because people use it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt

DENSE_BYTES = 1.5e9  # a Jacobian or Hessian intermediate larger than this is refused
MAX_STEPS = 5000
LOOSE = 100.0  # a peer whose own rounding stops it short is timed to this many times the tolerance instead


class Outcome(NamedTuple):
    """What one solve gives: the point in any shape, and how often what was evaluated (numbers, or device scalars)."""

    x: Any
    evaluations: dict[str, Any]


class Prepared(NamedTuple):
    """A solver ready to be timed on a cell: `run` is compiled. A solver that failed has a reason and no `run`."""

    run: Callable[[], Outcome] | None
    reason: str = ""


class Peer(NamedTuple):
    """A solver with one setting; `prepare(cell, tol, seconds)` compiles it and finds out whether it converges."""

    name: str
    setting: str
    prepare: Callable[[Cell, float, float], Prepared]


class Steps(NamedTuple):
    """A compiled peer as pure functions: start(x0, f, r) -> carry, step(carry), x(carry), counts(carry)."""

    start: Callable[..., Any]
    step: Callable[..., Any]
    x: Callable[[Any], Any]
    counts: Callable[[Any], dict[str, Any]]


class Functions(NamedTuple):
    """The scaled plain loss and residuals, with the data as arguments."""

    loss: Callable[[Any, Any], Any]
    residuals: Callable[[Any, Any], Any]


def scaled(cell: Cell) -> Functions:
    """Loss and residuals over their size at the start: the loss is 1 there."""
    start = float(cell.loss(cell.x0, cell.data))
    return Functions(
        lambda x, data: cell.loss(x, data) / start,
        lambda x, data: cell.residuals(x, data) / np.sqrt(start),
    )


def compiled_peer(name: str, setting: str, make: Callable[[Functions, Cell], Steps], *, dense: float = 0) -> Peer:
    """A peer that runs in one compiled loop; `dense` is how many arrays of residuals × unknowns it needs."""

    def prepare(cell: Cell, tol: float, seconds: float) -> Prepared:
        need = dense * cell.residual_count * cell.x0.size * cell.x0.dtype.itemsize
        if need > DENSE_BYTES:
            return Prepared(None, f"not run: needs about {need / 1e9:.3g} GB")
        functions = scaled(cell)
        steps = make(functions, cell)
        needed, reason, reached = steps_needed(functions, steps, cell, tol, seconds)
        if needed is None and reached <= LOOSE * tol:
            needed, _, _ = steps_needed(functions, steps, cell, LOOSE * tol, np.inf)
            reason = f"timed to {LOOSE:g} times the tolerance; beyond it: {reason}"
        if needed is None:
            return Prepared(None, reason)

        def solve(data, x0, number):
            carry = jax.lax.fori_loop(0, number, lambda _, c: steps.step(c, data), steps.start(x0, data))
            return steps.x(carry), steps.counts(carry)

        program = jax.jit(solve).lower(cell.data, cell.x0, np.int64(needed)).compile()

        def run():
            x, count = jax.block_until_ready(program(cell.data, cell.x0, np.int64(needed)))
            return Outcome(x, {"steps": needed} | count)

        return Prepared(run, reason)

    return Peer(name, setting, prepare)


def steps_needed(
    functions: Functions, steps: Steps, cell: Cell, tol: float, seconds: float
) -> tuple[int | None, str, float]:
    """How many steps bring the gradient norm to `tol` of the start's, or None; then why, and the norm reached."""

    def norm(x, data):
        return jnp.linalg.norm(jax.grad(functions.loss)(x, data).ravel())

    def advance(data, carry, taken, goal, most):
        def unfinished(state):
            _, i, size = state
            return (size > goal) & (i < most)

        def body(state):
            carry, i, _ = state
            carry = steps.step(carry, data)
            return carry, i + 1, norm(steps.x(carry), data)

        return jax.lax.while_loop(unfinished, body, (carry, taken, norm(steps.x(carry), data)))

    goal = tol * norm(cell.x0, cell.data)
    carry = jax.jit(steps.start)(cell.x0, cell.data)
    program = jax.jit(advance).lower(cell.data, carry, np.int64(0), goal, np.int64(1)).compile()
    taken, size, most = 0, np.inf, 1
    started = time.process_time()
    while size > goal:
        carry, taken, size = jax.block_until_ready(program(cell.data, carry, np.int64(taken), goal, np.int64(most)))
        reached = float(size / goal) * tol
        if not np.isfinite(reached):
            return None, f"not finite after {int(taken)} steps", np.inf
        if size > goal and (time.process_time() - started > seconds or most == MAX_STEPS):
            spent = time.process_time() - started
            return None, f"gradient {reached:.1e} after {int(taken)} steps, {spent:.0f} CPU s", reached
        most = min(2 * most, MAX_STEPS)
    return int(taken), "", tol


class _Reached(Exception):
    """The gradient is small enough."""


class _OutOfTime(Exception):
    """The time cap is over."""


def scipy_lbfgs(memory: int) -> Peer:
    """scipy's `minimize(method="L-BFGS-B")` on a compiled value and gradient; ends at the first good evaluation."""

    def prepare(cell: Cell, tol: float, seconds: float) -> Prepared:
        functions, shape = scaled(cell), cell.x0.shape
        graded = jax.jit(jax.value_and_grad(functions.loss)).lower(cell.x0, cell.data).compile()
        goal = tol * float(np.linalg.norm(graded(cell.x0, cell.data)[1]))
        smallest = [np.inf]

        def attempt(cap: float, goal: float) -> Outcome:
            calls, found, started = 0, np.zeros(cell.x0.size), time.process_time()

            def evaluate(x):
                nonlocal calls, found
                value, gradient = graded(x.reshape(shape), cell.data)
                gradient = np.asarray(gradient).ravel()
                calls, found = calls + 1, x.copy()
                smallest[0] = float(np.linalg.norm(gradient))
                if smallest[0] <= goal:
                    raise _Reached
                if time.process_time() - started > cap:
                    raise _OutOfTime
                return float(value), gradient

            options = {"maxcor": memory, "ftol": 0.0, "gtol": 0.0, "maxiter": 10**6, "maxfun": 10**6, "maxls": 50}
            try:
                scipy.optimize.minimize(evaluate, found, jac=True, method="L-BFGS-B", options=options)
            except _Reached:
                return Outcome(found.reshape(shape), {"gradients": calls})
            raise _OutOfTime

        reason = ""
        for factor in (1.0, LOOSE):
            try:
                attempt(seconds, factor * goal)
            except _OutOfTime:
                if smallest[0] > LOOSE * goal:
                    return Prepared(None, f"gradient {smallest[0] / goal * tol:.1e} when it gave up or time was over")
                reason = f"gradient {smallest[0] / goal * tol:.1e} when it gave up or time was over"
                continue
            reason = reason and f"timed to {LOOSE:g} times the tolerance; beyond it: {reason}"
            return Prepared(lambda factor=factor: attempt(np.inf, factor * goal), reason)
        return Prepared(None, reason)

    return Peer("scipy L-BFGS-B", f"memory {memory}", prepare)


def optax_lbfgs(memory: int) -> Peer:
    """`optax.lbfgs` with its zoom line search, value and gradient taken from the search's memory."""

    def make(functions: Functions, cell: Cell) -> Steps:
        optimizer = optax.lbfgs(memory_size=memory)

        def bound(data):
            return lambda x: functions.loss(x, data)

        def start(x0, data):
            return x0, optimizer.init(x0), jnp.asarray(0)

        def step(carry, data):
            x, state, calls = carry
            value, gradient = optax.value_and_grad_from_state(bound(data))(x, state=state)
            updates, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=bound(data))
            searched = optax.tree_utils.tree_get(state, "num_linesearch_steps")
            return optax.apply_updates(x, updates), state, calls + searched

        return Steps(start, step, lambda c: c[0], lambda c: {"gradients": c[2] + 1})

    return compiled_peer("optax lbfgs", f"memory {memory}", make)


def _optimistix(solver: Any, residual: bool) -> Callable[[Functions, Cell], Steps]:
    """The stepping interface that `optimistix.minimise` and `least_squares` use themselves."""

    def make(functions: Functions, cell: Cell) -> Steps:
        plain = functions.residuals if residual else functions.loss

        def fn(x, data):
            return plain(x, data), None

        struct = jax.eval_shape(plain, cell.x0, cell.data)
        static: list[Any] = []
        tags = frozenset()

        def start(x0, data):
            state = solver.init(fn, x0, data, {}, struct, None, tags)
            arrays, rest = eqx.partition(state, eqx.is_array)
            static[:] = [rest]
            return x0, arrays

        def step(carry, data):
            x, arrays = carry
            x, state, _ = solver.step(fn, x, data, {}, eqx.combine(arrays, static[0]), tags)
            return x, eqx.filter(state, eqx.is_array)

        return Steps(start, step, lambda c: c[0], lambda c: {})

    return make


def optimistix_lm(solver: str) -> Peer:
    """`optimistix.LevenbergMarquardt`: dense QR (its default) or conjugate gradients on the normal equations."""
    linear: Any = {
        "QR": lineax.QR(),
        "Normal CG": lineax.Normal(lineax.CG(rtol=1e-3, atol=0.0, max_steps=500)),
        "Normal CG tight": lineax.Normal(lineax.CG(rtol=1e-6, atol=0.0, max_steps=500)),
    }[solver]
    made = optimistix.LevenbergMarquardt(rtol=0.0, atol=0.0, linear_solver=linear)
    dense = 4 if solver == "QR" else 0
    return compiled_peer("optimistix LevenbergMarquardt", solver, _optimistix(made, True), dense=dense)


def optimistix_bfgs() -> Peer:
    """`optimistix.BFGS`."""
    return compiled_peer("optimistix BFGS", "default", _optimistix(optimistix.BFGS(rtol=0.0, atol=0.0), False))


class _CheapStart(jaxopt.LevenbergMarquardt):
    """jaxopt's LM without its start-up damping from all p columns of the Jacobian (1.5 GB at n = 512, d = 16).

    The largest diagonal entry of JᵀJ is replaced by the Rayleigh quotient of the gradient: one product instead of p.
    """

    def _jtj_diag_op(self, params, *args, **kwargs):
        g = self._jt_op(params, self._fun(params, *args, **kwargs), *args, **kwargs)
        return jnp.vdot(g, self._jtj_op(params, g, *args, **kwargs))[None] / jnp.vdot(g, g)


def jaxopt_lm(setting: str) -> Peer:
    """`jaxopt.LevenbergMarquardt`: conjugate gradients (its default) or a dense Jacobian with Cholesky."""
    dense = setting == "dense, cholesky"
    damping = 1e-3 if "1e-3" in setting else 1e-6
    options: dict[str, Any] = {"solver": "cholesky", "materialize_jac": True} if dense else {}

    def make(functions: Functions, cell: Cell) -> Steps:
        shape = cell.x0.shape
        solver = _CheapStart(
            residual_fun=lambda x, data: functions.residuals(x.reshape(shape), data),
            damping_parameter=damping,
            tol=0.0,
            implicit_diff=False,
            **options,
        )
        return _jaxopt(solver, shape)

    return compiled_peer("jaxopt LevenbergMarquardt", setting, make, dense=4 if dense else 0)


def jaxopt_gauss_newton() -> Peer:
    """`jaxopt.GaussNewton`: undamped, conjugate gradients inside."""

    def make(functions: Functions, cell: Cell) -> Steps:
        shape = cell.x0.shape
        solver = jaxopt.GaussNewton(
            residual_fun=lambda x, data: functions.residuals(x.reshape(shape), data), tol=0.0, implicit_diff=False
        )
        return _jaxopt(solver, shape)

    return compiled_peer("jaxopt GaussNewton", "default", make)


def _jaxopt(solver: Any, shape: tuple[int, ...]) -> Steps:
    def start(x0, data):
        return x0.ravel(), solver.init_state(x0.ravel(), data)

    def step(carry, data):
        old = carry[1]
        new = tuple(solver.update(*carry, data))
        # Loop states must keep their types (the library starts some counters as weakly typed numbers).
        return jax.tree.map(lambda a, b: jnp.asarray(b, jnp.asarray(a).dtype), (carry[0], old), new)

    return Steps(start, step, lambda c: c[0].reshape(shape), lambda c: {})


def naive_newton() -> Peer:
    """Newton with `jax.hessian`, its shift doubled until Cholesky succeeds, and backtracking."""

    def make(functions: Functions, cell: Cell) -> Steps:
        shape, size = cell.x0.shape, cell.x0.size

        def start(x0, data):
            return (x0.ravel(),)

        def step(carry, data):
            (x,) = carry

            def loss(v):
                return functions.loss(v.reshape(shape), data)

            value, g = jax.value_and_grad(loss)(x)
            H = jax.hessian(loss)(x)
            unit = jnp.mean(jnp.abs(jnp.diagonal(H)))

            def factor(shift):
                return jnp.linalg.cholesky(H + shift * unit * jnp.eye(size, dtype=H.dtype))

            shift = jax.lax.while_loop(
                lambda s: ~jnp.all(jnp.isfinite(factor(s))) & (s < 1e3), lambda s: 10 * s, jnp.asarray(1e-10, H.dtype)
            )
            d = -jax.scipy.linalg.cho_solve((factor(shift), True), g)

            def too_long(t):
                return (loss(x + t * d) > value + 1e-4 * t * jnp.vdot(g, d) + 1e-15) & (t > 1e-6)

            t = jax.lax.while_loop(too_long, lambda t: t / 2, jnp.asarray(1.0, H.dtype))
            return (x + t * d,)

        return Steps(start, step, lambda c: c[0].reshape(shape), lambda c: {})

    return compiled_peer("naive Newton (jax.hessian)", "default", make, dense=2)


def peers() -> list[Peer]:
    """Every peer with every setting that is tried."""
    return [
        scipy_lbfgs(10),
        scipy_lbfgs(30),
        optax_lbfgs(10),
        optax_lbfgs(30),
        jaxopt_gauss_newton(),
        jaxopt_lm("CG, damping 1e-6"),
        jaxopt_lm("CG, damping 1e-3"),
        jaxopt_lm("dense, cholesky"),
        optimistix_lm("QR"),
        optimistix_lm("Normal CG"),
        optimistix_lm("Normal CG tight"),
        optimistix_bfgs(),
        naive_newton(),
    ]
