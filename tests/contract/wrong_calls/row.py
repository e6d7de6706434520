"""One row of the table of wrong calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Wrong(NamedTuple):
    """A call that must be refused: its label, the call, a regex that the message must match, and the type it must have.

    The words name the argument, what it has, and what it must have.
    """

    label: str
    call: Callable[[], Any]
    words: str
    error: type[Exception] = ValueError


def without_x64(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` in a process whose JAX computes in float32, as it does unless told otherwise."""

    def switched():
        jax.config.update("jax_enable_x64", False)
        try:
            return call()
        finally:
            jax.config.update("jax_enable_x64", True)

    return switched
