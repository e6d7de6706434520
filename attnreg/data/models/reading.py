"""What a family reads a model from: the fields of its config.json, and its tensors by name; each refusal names both."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from attnreg.data.models.parameters import Dense, Norm
from attnreg.problems.checks import ProblemError, check_choice, check_flag, check_integer, check_number

FLOATS = ("float16", "bfloat16", "float32", "float64")
# The names that config.json has for the activations of `attnreg.data.models.config`.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class Options:
    """The fields of a config.json; `where` is what messages call it. A field that is null counts as absent."""

    def __init__(self, fields: Mapping[str, Any], where: str):
        self.fields = fields
        self.where = where

    def get(self, name: str, default: Any = None) -> Any:
        """A field as it stands, or the default."""
        value = self.fields.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1; without a default the field is required."""
        value = self._required(name, default)
        check_integer(f"{name} in {self.where}", value, at_least=1)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; without a default the field is required."""
        value = self._required(name, default)
        check_number(f"{name} in {self.where}", value, above=0)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self.get(name, default)
        check_flag(f"{name} in {self.where}", value)
        return value

    def activation(self, name: str, default: str) -> str:
        """An activation, under the name that `attnreg.data.models.config` has for it."""
        value = self.get(name, default)
        check_choice(f"{name} in {self.where}", value, ACTIVATIONS)
        return ACTIVATIONS[value]

    def only(self, name: str, *supported: Any) -> None:
        """Refuse a field that asks for something else than the first of `supported`, which absence means too."""
        value = self.get(name, supported[0])
        if value not in supported:
            raise ProblemError(
                f"{name} in {self.where} is {value!r}; only {' or '.join(map(json.dumps, supported))} is supported: "
                f"take a model without it, or write a family of your own (docs/guides/models.md)"
            )

    def _required(self, name: str, default: Any) -> Any:
        value = self.get(name, default)
        if value is None:
            raise ProblemError(f"{self.where} has no {name}; it must say so: take the file that came with the weights")
        return value


class Tensors:
    """The tensors of a model by name, in one dtype; remembers which were asked for.

    `names` are those there are, `read` gives one as a NumPy array of any floating dtype, `where` is what messages call
    the place.
    """

    def __init__(self, names: Collection[str], read: Callable[[str], np.ndarray], where: str, dtype: DTypeLike):
        self.names: frozenset[str] = frozenset(names)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.where = where
        self._read = read
        self._prefix = ""
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self.names

    def has(self, prefix: str) -> bool:
        """Whether the name of any tensor begins with this."""
        return any(name.startswith(self._prefix + prefix) for name in self.names)

    def under(self, prefix: str) -> "Tensors":
        """The same tensors under the names that follow `prefix`, or unchanged where no name begins with it."""
        view = Tensors(self.names, self._read, self.where, self.dtype)
        view._prefix, view._used = self._prefix + prefix * self.has(prefix), self._used
        return view

    def array(self, name: str, *shape: int) -> jax.Array:
        """One tensor, which must have this shape, in the dtype of all."""
        full = self._prefix + name
        if full not in self.names:
            raise ProblemError(
                f"{self.where} has no tensor {full!r}, which config.json promises: the files do not belong together, "
                f"or some are missing; get the whole folder again"
            )
        self._used.add(full)
        found = self._read(full)
        if found.dtype.name not in FLOATS:
            raise ProblemError(
                f"{full} in {self.where} has dtype {found.dtype.name}; it must be one of {', '.join(FLOATS)}: take a "
                f"model that is not quantised"
            )
        if found.shape != shape:
            raise ProblemError(
                f"{full} in {self.where} has shape {found.shape}, but config.json says {shape}: the files do not "
                f"belong together"
            )
        return jnp.asarray(np.asarray(found, self.dtype))

    def dense(self, name: str, inputs: int, outputs: int, *, bias: bool, transposed: bool = True) -> Dense:
        """The affine map of `name.weight`, (outputs, inputs) if `transposed`, and `name.bias` (outputs,)."""
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        w = self.array(f"{name}.weight", *shape)
        return Dense(w.T if transposed else w, self.array(f"{name}.bias", outputs) if bias else None)

    def norm(self, name: str, width: int, *, bias: bool = True) -> Norm:
        """The norm of `name.weight` and, if it has one, `name.bias`, each (width,); old files say gamma and beta."""
        gamma, beta = ("gamma", "beta") if f"{name}.gamma" in self else ("weight", "bias")
        return Norm(self.array(f"{name}.{gamma}", width), self.array(f"{name}.{beta}", width) if bias else None)

    def check_all_used(self, below: str, ignored: Iterable[str] = ()) -> None:
        """Refuse tensors whose names begin with `below`, match no pattern of `ignored` and were not asked for.

        A model of another architecture under a familiar name would be computed wrongly without a word.
        """
        left = [name for name in sorted(self.names - self._used) if name.startswith(self._prefix + below)]
        left = [name for name in left if not any(re.search(pattern, name) for pattern in ignored)]
        if left:
            named = ", ".join(left[:3]) + ", …" * (len(left) > 3)
            raise ProblemError(
                f"{self.where} has tensors that this family has no use for ({named}): "
                f"it is another architecture, or has adapters to be merged first"
            )
