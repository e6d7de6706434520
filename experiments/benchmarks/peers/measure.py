"""The two things that are measured of a peer: time to a gradient tolerance, and restarts until a loss is reached."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.cells import Cell
from experiments.benchmarks.peers.protocol import Method, Outcome, Peer, arguments, gradient_norm, scaled
from experiments.benchmarks.timing import Clock

DENSE_BYTES = 1.5e9  # a Jacobian or Hessian intermediate larger than this is refused
LOOSE = 100.0  # a peer whose own rounding stops it short is timed to this many times the tolerance instead
STALE = 4  # chunks without 0.1% progress after which a run of a hunt is given up
MAX_CHUNKS = 250


class Prepared(NamedTuple):
    """A solver ready to be timed on a cell: `run` is compiled. A solver that failed has a reason and no `run`."""

    run: Callable[[], Outcome] | None
    reason: str = ""


class Contender(NamedTuple):
    """A solver, ours or a peer: `prepare(cell, tol, seconds)` compiles it and finds out whether it converges."""

    name: str
    setting: str
    prepare: Callable[[Cell, float, float], Prepared]

    @property
    def label(self) -> str:
        """Name and setting."""
        return f"{self.name} ({self.setting})"


class Found(NamedTuple):
    """What a hunt came to: best relative loss, CPU and wall seconds when it was reached, runs, and the point."""

    relative: float
    cpu: float
    wall: float
    runs: int
    x: Any

    @property
    def numbers(self) -> dict[str, Any]:
        """All but the point."""
        return {name: value for name, value in self._asdict().items() if name != "x"}


def contender(peer: Peer) -> Contender:
    """The peer as a contender for time to a gradient tolerance."""
    return Contender(peer.name, peer.setting, lambda cell, tol, seconds: prepare(peer, cell, tol, seconds))


def prepare(peer: Peer, cell: Cell, tol: float, seconds: float) -> Prepared:
    """Run until the gradient norm is `tol` times that at the start, or `LOOSE` times as much if it gets no further."""
    count = 0 if cell.residuals is None else jax.eval_shape(cell.residuals, cell.x0, cell.data).size
    need = peer.dense * count * sum(leaf.nbytes for leaf in jax.tree.leaves(cell.x0))
    if need > DENSE_BYTES:
        return Prepared(None, f"not run: needs about {need / 1e9:.3g} GB")
    method, data, functions = peer.bind(cell), arguments(cell), scaled(cell)
    start = float(jax.jit(lambda x, data: gradient_norm(functions, x, data))(cell.x0, data))
    trial = method.trial(cell.x0, data, tol * start, seconds)
    if trial.replay is not None:
        return Prepared(trial.replay)
    size = f"gradient {trial.size / start:.1e}" if np.isfinite(trial.size) else "not finite"
    reason = f"{size} {trial.spent}"
    if trial.size <= LOOSE * tol * start:
        loose = method.trial(cell.x0, data, LOOSE * tol * start, np.inf)
        return Prepared(loose.replay, f"timed to {LOOSE:g} times the tolerance; beyond it: {reason}")
    return Prepared(None, reason)


def hunt(method: Method, cell: Cell, key: jax.Array, *, seconds: float, tol: float) -> Found:
    """Run and restart until the relative loss is at most `tol` or `seconds` of CPU time are used; compilation is free.

    A run whose loss has not fallen by 0.1% in `STALE` chunks is given up.
    """
    assert cell.draw is not None, f"cell {cell.name} has no starts to draw"
    data, value = arguments(cell), jax.jit(cell.loss)
    x0 = cell.draw(key, cell.data, 0)
    jax.block_until_ready(method.advance(method.begin(x0, data), data))
    float(value(x0, cell.data))
    clock = Clock()
    best, at, run, found = np.inf, (0.0, 0.0), 0, x0
    while best > tol and clock.cpu < seconds:
        carry = method.begin(cell.draw(jax.random.fold_in(key, run), cell.data, run), data)
        last, stale, chunks = np.inf, 0, 0
        while best > tol and stale < STALE and chunks < MAX_CHUNKS and clock.cpu < seconds:
            carry = jax.block_until_ready(method.advance(carry, data))
            now = float(value(method.x(carry), cell.data) / data[1])
            chunks += 1
            if not np.isfinite(now):
                break
            stale = stale + 1 if now > 0.999 * last else 0
            last = min(last, now)
            if now < best:
                best, at, found = now, (clock.cpu, clock.wall), method.x(carry)
        run += 1
    return Found(best, *at, run, jax.tree.map(jnp.asarray, found))
