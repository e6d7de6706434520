"""scipy's L-BFGS-B on a compiled value and gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers.protocol import CHUNK, Method, Outcome, Peer, Trial, scaled
from experiments.benchmarks.timing import Clock

NO_LIMIT = 10**6


class _Reached(Exception):
    """The gradient is small enough."""


class _OutOfTime(Exception):
    """The time cap is over."""


def scipy_lbfgs(memory: int) -> Peer:
    """`minimize(method="L-BFGS-B")`.

    A trial ends at the first good evaluation. In a hunt it starts again from its own last point every 20 · CHUNK
    evaluations, to look at the clock.
    """

    def bind(cell: Cell) -> Method:
        functions, unravel = scaled(cell), ravel_pytree(cell.x0)[1]
        graded = jax.jit(jax.value_and_grad(lambda flat, data: functions.loss(unravel(flat), data)))

        def minimise(flat: Any, data: Any, most: int, watch: Callable[[np.ndarray, np.ndarray], None]) -> np.ndarray:
            def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
                value, gradient = graded(x, data)
                gradient = np.asarray(gradient)
                watch(x, gradient)
                return float(value), gradient

            options = {"maxcor": memory, "ftol": 0.0, "gtol": 0.0, "maxiter": NO_LIMIT, "maxfun": most, "maxls": 50}
            return scipy.optimize.minimize(evaluate, flat, jac=True, method="L-BFGS-B", options=options).x

        def begin(x0: Any, data: Any) -> np.ndarray:
            return np.asarray(ravel_pytree(x0)[0])

        def advance(flat: np.ndarray, data: Any) -> np.ndarray:
            return minimise(flat, data, 20 * CHUNK, lambda x, gradient: None)

        def trial(x0: Any, data: Any, goal: float, seconds: float) -> Trial:
            graded(begin(x0, data), data)  # compiled before the clock starts
            size, replay = _attempt(minimise, begin(x0, data), data, goal, seconds)
            if replay is None:
                return Trial(size, "when it gave up or time was over", None)

            def again() -> Outcome:
                flat, calls = replay()
                return Outcome(unravel(jnp.asarray(flat)), {"gradients": calls})

            return Trial(size, "", again)

        return Method(begin, advance, lambda flat: unravel(jnp.asarray(flat)), trial)

    return Peer("scipy L-BFGS-B", f"memory {memory}", bind)


def _attempt(
    minimise: Callable[..., Any], flat: np.ndarray, data: Any, goal: float, seconds: float
) -> tuple[float, Callable[[], tuple[np.ndarray, int]] | None]:
    """The gradient norm that one run comes to within `seconds`, and that run again if it is at most `goal`."""
    size = np.inf

    def once(cap: float) -> tuple[np.ndarray, int]:
        calls, found, clock = 0, flat, Clock()

        def watch(x: np.ndarray, gradient: np.ndarray) -> None:
            nonlocal calls, found, size
            calls, found, size = calls + 1, x.copy(), float(np.linalg.norm(gradient))
            if size <= goal:
                raise _Reached
            if clock.cpu > cap:
                raise _OutOfTime

        try:
            minimise(flat, data, NO_LIMIT, watch)
        except _Reached:
            return found, calls
        raise _OutOfTime

    try:
        once(seconds)
    except _OutOfTime:
        return size, None
    return size, lambda: once(np.inf)
