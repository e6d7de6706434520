"""Peers that run as compiled loops of steps: optax, optimistix, jaxopt, and Newton with `jax.hessian`.

Packages of the extra `peers` are imported where a peer is made: minibatch Adam, beside them, needs none.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers.protocol import CHUNK, Functions, Peer, Steps, arguments, compiled


def optax_lbfgs(memory: int) -> Peer:
    """`optax.lbfgs` with its zoom line search, value and gradient taken from the search's memory."""

    def make(functions: Functions, cell: Cell) -> Steps:
        optimizer = optax.lbfgs(memory_size=memory)

        def bound(data: Any) -> Callable[[Any], jax.Array]:
            return lambda x: functions.loss(x, data)

        def start(x0: Any, data: Any) -> Any:
            return x0, optimizer.init(x0), jnp.asarray(0)

        def step(carry: Any, data: Any) -> Any:
            x, state, calls = carry
            value, gradient = optax.value_and_grad_from_state(bound(data))(x, state=state)
            updates, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=bound(data))
            searched = optax.tree_utils.tree_get(state, "num_linesearch_steps")
            return optax.apply_updates(x, updates), state, calls + searched

        return Steps(start, step, lambda c: c[0], lambda c: {"gradients": c[2] + 1})

    return compiled("optax lbfgs", f"memory {memory}", make)


def _optimistix(solver: Any, residual: bool) -> Callable[[Functions, Cell], Steps]:
    """The stepping interface that `optimistix.minimise` and `least_squares` use themselves."""
    import equinox as eqx

    def make(functions: Functions, cell: Cell) -> Steps:
        plain = functions.residuals if residual else functions.loss

        def fn(x: Any, data: Any) -> tuple[jax.Array, None]:
            return plain(x, data), None

        struct = jax.eval_shape(plain, cell.x0, arguments(cell))
        static: list[Any] = []
        tags = frozenset()

        def start(x0: Any, data: Any) -> Any:
            state = solver.init(fn, x0, data, {}, struct, None, tags)
            arrays, rest = eqx.partition(state, eqx.is_array)
            static[:] = [rest]
            return x0, arrays

        def step(carry: Any, data: Any) -> Any:
            x, arrays = carry
            x, state, _ = solver.step(fn, x, data, {}, eqx.combine(arrays, static[0]), tags)
            return x, eqx.filter(state, eqx.is_array)

        return Steps(start, step, lambda c: c[0], lambda c: {})

    return make


def optimistix_lm(solver: str) -> Peer:
    """`optimistix.LevenbergMarquardt`: dense QR (its default) or conjugate gradients on the normal equations."""
    import lineax
    import optimistix

    linear: Any = {
        "QR": lineax.QR(),
        "Normal CG": lineax.Normal(lineax.CG(rtol=1e-3, atol=0.0, max_steps=500)),
        "Normal CG tight": lineax.Normal(lineax.CG(rtol=1e-6, atol=0.0, max_steps=500)),
    }[solver]
    made = optimistix.LevenbergMarquardt(rtol=0.0, atol=0.0, linear_solver=linear)
    dense = 4 if solver == "QR" else 0
    return compiled("optimistix LevenbergMarquardt", solver, _optimistix(made, True), dense=dense)


def optimistix_bfgs() -> Peer:
    """`optimistix.BFGS`."""
    import optimistix

    return compiled("optimistix BFGS", "default", _optimistix(optimistix.BFGS(rtol=0.0, atol=0.0), False))


def optimistix_lbfgs() -> Peer:
    """`optimistix.LBFGS`."""
    import optimistix

    return compiled("optimistix LBFGS", "default", _optimistix(optimistix.LBFGS(rtol=0.0, atol=0.0), False))


def _jaxopt_package() -> Any:
    # It announces on import that it is no longer maintained; it is measured because people use it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import jaxopt
    return jaxopt


def _cheap_start() -> Any:
    """jaxopt's LM without its start-up damping from all p columns of the Jacobian (1.5 GB at n = 512, d = 16).

    The largest diagonal entry of JᵀJ is replaced by the Rayleigh quotient of the gradient: one product instead of p.
    """

    class CheapStart(_jaxopt_package().LevenbergMarquardt):
        def _jtj_diag_op(self, params: Any, *args: Any, **kwargs: Any) -> jax.Array:
            g = self._jt_op(params, self._fun(params, *args, **kwargs), *args, **kwargs)
            return jnp.vdot(g, self._jtj_op(params, g, *args, **kwargs))[None] / jnp.vdot(g, g)

    return CheapStart


def jaxopt_lm(setting: str) -> Peer:
    """`jaxopt.LevenbergMarquardt`: conjugate gradients (its default) or a dense Jacobian with Cholesky."""
    dense = setting == "dense, cholesky"
    damping = 1e-3 if "1e-3" in setting else 1e-6
    options: dict[str, Any] = {"solver": "cholesky", "materialize_jac": True} if dense else {}
    make = _jaxopt(_cheap_start(), damping_parameter=damping, **options)
    return compiled("jaxopt LevenbergMarquardt", setting, make, dense=4 if dense else 0)


def jaxopt_gauss_newton() -> Peer:
    """`jaxopt.GaussNewton`: undamped, conjugate gradients inside."""
    return compiled("jaxopt GaussNewton", "default", _jaxopt(_jaxopt_package().GaussNewton))


def _jaxopt(solver_class: Any, **options: Any) -> Callable[[Functions, Cell], Steps]:
    def make(functions: Functions, cell: Cell) -> Steps:
        unravel = ravel_pytree(cell.x0)[1]
        solver = solver_class(
            residual_fun=lambda x, data: functions.residuals(unravel(x), data), tol=0.0, implicit_diff=False, **options
        )

        def start(x0: Any, data: Any) -> Any:
            x = ravel_pytree(x0)[0]
            return x, solver.init_state(x, data)

        def step(carry: Any, data: Any) -> Any:
            new = tuple(solver.update(*carry, data))
            # Loop states must keep their types (the library starts some counters as weakly typed numbers).
            return jax.tree.map(lambda a, b: jnp.asarray(b, jnp.asarray(a).dtype), tuple(carry), new)

        return Steps(start, step, lambda c: unravel(c[0]), lambda c: {})

    return make


def naive_newton() -> Peer:
    """Newton with `jax.hessian`, its shift multiplied by ten until Cholesky succeeds, and backtracking."""

    def move(loss: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        value, g = jax.value_and_grad(loss)(x)
        H = jax.hessian(loss)(x)
        unit = jnp.mean(jnp.abs(jnp.diagonal(H)))

        def factor(shift: jax.Array) -> jax.Array:
            return jnp.linalg.cholesky(H + shift * unit * jnp.eye(x.size, dtype=H.dtype))

        shift = jax.lax.while_loop(
            lambda s: ~jnp.all(jnp.isfinite(factor(s))) & (s < 1e3), lambda s: 10 * s, jnp.asarray(1e-10, H.dtype)
        )
        d = -jax.scipy.linalg.cho_solve((factor(shift), True), g)

        def too_long(t: jax.Array) -> jax.Array:
            return (loss(x + t * d) > value + 1e-4 * t * jnp.vdot(g, d) + 1e-15) & (t > 1e-6)

        t = jax.lax.while_loop(too_long, lambda t: t / 2, jnp.asarray(1.0, H.dtype))
        return x + t * d

    return compiled("naive Newton (jax.hessian)", "default", _newton(move), dense=2)


def saddle_free_newton() -> Peer:
    """Newton with `jax.hessian`, its eigenvalues replaced by their absolute values, and the best of 12 step lengths."""

    def move(loss: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        g = jax.grad(loss)(x)
        w, V = jnp.linalg.eigh(jax.hessian(loss)(x))
        step = -V @ ((V.T @ g) / jnp.maximum(jnp.abs(w), 1e-10 * jnp.max(jnp.abs(w))))
        lengths = 0.5 ** jnp.arange(12.0)
        values = jax.lax.map(lambda t: loss(x + t * step), lengths)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return jnp.where(values[best] < loss(x), x + lengths[best] * step, x)

    return compiled("naive Newton (jax.hessian)", "saddle-free", _newton(move), dense=2, chunk=CHUNK // 4)


def _newton(move: Callable[..., jax.Array]) -> Callable[[Functions, Cell], Steps]:
    """Steps of `move(loss over one vector, x)`."""

    def make(functions: Functions, cell: Cell) -> Steps:
        unravel = ravel_pytree(cell.x0)[1]

        def start(x0: Any, data: Any) -> Any:
            return ravel_pytree(x0)[0]

        def step(x: Any, data: Any) -> Any:
            return move(lambda v: functions.loss(unravel(v), data), x)

        return Steps(start, step, unravel, lambda c: {})

    return make
