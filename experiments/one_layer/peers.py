"""Existing solvers, and ours, on one-layer instances, with restarts until the instance is solved or the time is over.

Each peer minimises the plain autodiff loss divided by its value at the start, with its own tolerances off, in
compiled chunks of steps. A run that has stopped improving is restarted from a new draw. "reduced" peers minimise the
loss with Y eliminated by a dense solve, which is not something any of these libraries does by itself.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import scipy.optimize

from attnreg.fit.layer import Search, fit_one_layer
from attnreg.problems.one_layer import OneLayerRegression

CHUNK = 20
STALE = 4  # chunks without 0.1% progress after which a run is given up
MAX_CHUNKS = 250


class Data(NamedTuple):
    """One noiseless instance: A1, A2, A3, B."""

    A1: Any
    A2: Any
    A3: Any
    B: Any


class Found(NamedTuple):
    """What a hunt came to: best relative loss, CPU and wall seconds when it was reached, restarts."""

    relative: float
    cpu: float
    wall: float
    runs: int


def instance(seed: int, n: int, d: int, noise: float = 0.0) -> Data:
    """A1, A2, A3 ~ N(0, 1/d), X, Y ~ N(0, 1), `B = softmax(A1 X A2ᵀ) A3 Y` plus noise relative to its rms."""
    keys = jax.random.split(jax.random.key(seed), 6)
    A1, A2, A3 = (jax.random.normal(k, (n, d)) / np.sqrt(d) for k in keys[:3])
    X, Y = (jax.random.normal(k, (d, d)) for k in keys[3:5])
    B = jax.nn.softmax(A1 @ X @ A2.T, axis=-1) @ A3 @ Y
    return Data(A1, A2, A3, B + noise * jnp.sqrt(jnp.mean(B**2)) * jax.random.normal(keys[5], B.shape))


def residuals(flat, data: Data):
    """Residuals of the plain problem at `(vec X, vec Y)`."""
    d1, d2, d3, c = data.A1.shape[1], data.A2.shape[1], data.A3.shape[1], data.B.shape[1]
    X, Y = flat[: d1 * d2].reshape(d1, d2), flat[d1 * d2 :].reshape(d3, c)
    return (jax.nn.softmax(data.A1 @ X @ data.A2.T, axis=-1) @ data.A3 @ Y - data.B).ravel()


def reduced_loss(flat, data: Data):
    """Loss with Y eliminated by the normal equations; a ridge of 1e-12 relative keeps them solvable."""
    X = flat.reshape(data.A1.shape[1], data.A2.shape[1])
    Z = jax.nn.softmax(data.A1 @ X @ data.A2.T, axis=-1) @ data.A3
    gram = Z.T @ Z
    gram = gram + 1e-12 * jnp.trace(gram) * jnp.eye(gram.shape[0])
    return jnp.sum((Z @ jnp.linalg.solve(gram, Z.T @ data.B) - data.B) ** 2)


def joint_start(key, data: Data, run: int):
    """X = 0 and Y = 0.1 N(0, 1) first (the start that serves the peers best); later runs draw X too, of growing
    size."""
    kx, ky = jax.random.split(key)
    scale = (0.0, 0.05, 0.3, 1.0)[min(run, 3)]
    X = scale * jax.random.normal(kx, (data.A1.shape[1] * data.A2.shape[1],))
    return jnp.concatenate([X, 0.1 * jax.random.normal(ky, (data.A3.shape[1] * data.B.shape[1],))])


def reduced_start(key, data: Data, run: int):
    """X of entries 0.1, then 0.3, then 1."""
    scale = (0.1, 0.3, 1.0)[min(run, 2)]
    return scale * jax.random.normal(key, (data.A1.shape[1] * data.A2.shape[1],))


class Method(NamedTuple):
    """A peer: `begin(x0, data, unit)` gives a carry, `advance(carry, data, unit)` a chunk later; `x` and `draw` as
    named."""

    begin: Callable[..., Any]
    advance: Callable[..., Any]
    x: Callable[[Any], Any]
    draw: Callable[..., Any]
    loss: Callable[..., Any]


def _joint(x, data):
    return jnp.sum(residuals(x, data) ** 2)


def optax_lbfgs(*, reduced: bool) -> Method:
    """`optax.lbfgs` with its zoom line search."""
    loss = reduced_loss if reduced else _joint
    optimizer = optax.lbfgs(memory_size=20)

    def begin(x0, data, unit):
        return x0, optimizer.init(x0)

    @jax.jit
    def advance(carry, data, unit):
        def f(x):
            return loss(x, data) / unit

        def body(_, carry):
            x, state = carry
            value, gradient = optax.value_and_grad_from_state(f)(x, state=state)
            updates, state = optimizer.update(gradient, state, x, value=value, grad=gradient, value_fn=f)
            return optax.apply_updates(x, updates), state

        return jax.lax.fori_loop(0, CHUNK, body, carry)

    return Method(begin, advance, lambda c: c[0], reduced_start if reduced else joint_start, loss)


def optimistix_solver(solver: Any, *, least_squares: bool) -> Method:
    """An optimistix solver, stepped as its own drivers step it."""

    def fn(x, args):
        data, unit = args
        r = residuals(x, data) / jnp.sqrt(unit)
        return (r if least_squares else jnp.sum(r**2)), None

    static: list[Any] = []

    def begin(x0, data, unit):
        struct = jax.eval_shape(lambda x: fn(x, (data, unit))[0], x0)
        state = solver.init(fn, x0, (data, unit), {}, struct, None, frozenset())
        arrays, rest = eqx.partition(state, eqx.is_array)
        static[:] = [rest]
        return x0, arrays

    @jax.jit
    def advance(carry, data, unit):
        def body(_, carry):
            x, arrays = carry
            state = eqx.combine(arrays, static[0])
            x, state, _ = solver.step(fn, x, (data, unit), {}, state, frozenset())
            return x, eqx.filter(state, eqx.is_array)

        return jax.lax.fori_loop(0, CHUNK, body, carry)

    return Method(begin, advance, lambda c: c[0], joint_start, _joint)


def scipy_lbfgs(*, reduced: bool) -> Method:
    """scipy's L-BFGS-B, restarted from its own last point every `20 · CHUNK` evaluations to look at the clock."""
    loss = reduced_loss if reduced else _joint
    graded = jax.jit(jax.value_and_grad(lambda x, data, unit: loss(x, data) / unit))

    def advance(x, data, unit):
        def f(z):
            value, gradient = graded(jnp.asarray(z), data, unit)
            return float(value), np.asarray(gradient)

        options = {"maxcor": 20, "ftol": 0.0, "gtol": 0.0, "maxiter": 10**6, "maxfun": 20 * CHUNK}
        return jnp.asarray(scipy.optimize.minimize(f, np.asarray(x), jac=True, method="L-BFGS-B", options=options).x)

    return Method(lambda x0, data, unit: x0, advance, lambda x: x, reduced_start if reduced else joint_start, loss)


def naive_newton() -> Method:
    """`jax.hessian` of the joint loss, its eigenvalues replaced by their absolute values, and backtracking."""

    @jax.jit
    def advance(x, data, unit):
        def f(z):
            return _joint(z, data) / unit

        def body(_, x):
            g = jax.grad(f)(x)
            w, V = jnp.linalg.eigh(jax.hessian(f)(x))
            step = -V @ ((V.T @ g) / jnp.maximum(jnp.abs(w), 1e-10 * jnp.max(jnp.abs(w))))
            lengths = 0.5 ** jnp.arange(12.0)
            values = jax.lax.map(lambda t: f(x + t * step), lengths)
            best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
            return jnp.where(values[best] < f(x), x + lengths[best] * step, x)

        return jax.lax.fori_loop(0, CHUNK // 4, body, x)

    return Method(lambda x0, data, unit: x0, advance, lambda x: x, joint_start, _joint)


PEERS: dict[str, Callable[[], Method]] = {
    "scipy L-BFGS-B": lambda: scipy_lbfgs(reduced=False),
    "scipy L-BFGS-B, reduced": lambda: scipy_lbfgs(reduced=True),
    "optax L-BFGS": lambda: optax_lbfgs(reduced=False),
    "optax L-BFGS, reduced": lambda: optax_lbfgs(reduced=True),
    "optimistix L-BFGS": lambda: optimistix_solver(optimistix.LBFGS(rtol=0.0, atol=0.0), least_squares=False),
    "optimistix LM": lambda: optimistix_solver(optimistix.LevenbergMarquardt(rtol=0.0, atol=0.0), least_squares=True),
    "naive Newton": naive_newton,
}


def ours(data: Data, key: jax.Array, *, seconds: float, tol: float) -> Found:
    """`fit_one_layer` within `seconds` of CPU time, compiled first with a single batch and a single candidate."""
    problem, search = OneLayerRegression(*data), Search(tol=tol)
    fit_one_layer(jax.random.fold_in(key, 1), problem, search=search, seconds=0.0, batches=1)
    wall = time.perf_counter()
    fit = fit_one_layer(key, problem, search=search, seconds=seconds, clock=time.process_time)
    return Found(fit.relative, fit.seconds, time.perf_counter() - wall, fit.batches)


def chosen(cells: Any, only: int) -> Any:
    """All cells, or the one with this index."""
    return cells if only < 0 else (cells[only],)


def median(values: Sequence[float]) -> float | None:
    """None when there are none."""
    return float(np.median(values)) if values else None


def hunt(method: Method, data: Data, key: jax.Array, *, seconds: float, tol: float) -> Found:
    """Run and restart until the relative loss is below `tol` or `seconds` of CPU time are used; compilation is free."""
    unit = jnp.sum((data.B - jnp.mean(data.B, axis=0, keepdims=True)) ** 2)
    value = jax.jit(method.loss)
    x0 = method.draw(key, data, 0)
    jax.block_until_ready(method.advance(method.begin(x0, data, unit), data, unit))
    float(value(x0, data))
    cpu, wall = time.process_time(), time.perf_counter()
    best, at, run = np.inf, (0.0, 0.0), 0
    while best > tol and time.process_time() - cpu < seconds:
        carry = method.begin(method.draw(jax.random.fold_in(key, run), data, run), data, unit)
        last, stale, chunks = np.inf, 0, 0
        while best > tol and stale < STALE and chunks < MAX_CHUNKS and time.process_time() - cpu < seconds:
            carry = jax.block_until_ready(method.advance(carry, data, unit))
            now = float(value(method.x(carry), data) / unit)
            chunks += 1
            if not np.isfinite(now):
                break
            stale = stale + 1 if now > 0.999 * last else 0
            last = min(last, now)
            if now < best:
                best, at = now, (time.process_time() - cpu, time.perf_counter() - wall)
        run += 1
    return Found(best, *at, run)
