"""Programs that are compiled in a thread while something else runs: a fit's second phase during its first."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.lift.precision import chosen

# Compiled programs that are remembered, over all shapes.
REMEMBERED = 16


class Ahead:
    """Calls of jitted functions, each compiled once for the shapes of its arguments, early if these were announced.

    A call whose arguments lie on several devices is left to `jax.jit`, which knows where its results will lie.
    """

    def __init__(self) -> None:
        self._programs: OrderedDict[Any, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    def announce(self, function: Any, *args: Any) -> Any:
        """Begin to compile `function` for arguments like these; what it will return, as shapes like theirs."""
        if not _several_devices(args):
            with self._lock:
                self._program(function, args)
        return jax.eval_shape(function, *args)

    def __call__(self, function: Any, *args: Any) -> Any:
        """`function(*args)`, by the announced program or, the first time, by one compiled now."""
        if _several_devices(args):
            return function(*args)
        with self._lock:
            program = self._program(function, args)
        return program.result()(*args)

    def _program(self, function: Any, args: tuple[Any, ...]) -> "Future[Any]":
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        key = (function, tree, shapes, chosen())
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="compile")
        # Traced here, since JAX's settings may differ between threads; the compiler is what takes the time.
        lowered = function.lower(*jax.tree.unflatten(tree, shapes))
        self._programs[key] = self._thread.submit(lowered.compile)
        while len(self._programs) > REMEMBERED:
            self._programs.popitem(last=False)
        return self._programs[key]


def _several_devices(args: Any) -> bool:
    return any(isinstance(leaf, jax.Array) and len(leaf.devices()) > 1 for leaf in jax.tree.leaves(args))


programs: Ahead = Ahead()
