"""Checks of options: errors that name the argument, what it has and what it must have. Arrays: `problems.arrays`."""

import dataclasses
import numbers
from collections.abc import Callable, Iterable
from typing import Any, dataclass_transform

import jax
import jax.core
import numpy as np

from attnreg.problems.reprs import compact_repr


@dataclass_transform(frozen_default=True, eq_default=False)
def pytree_dataclass(*static: str) -> Callable[[type], Any]:
    """Class decorator: a frozen dataclass that is a pytree; `static` fields are metadata.

    It prints as `attnreg.problems.reprs.compact` writes it. Unflattening skips `__init__`, so the checks there see only
    what a user built, never tracers.
    """

    def register(cls):
        cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        cls = cls if "__repr__" in vars(cls) else compact_repr(cls)
        data = [f.name for f in dataclasses.fields(cls) if f.name not in static]

        def children(obj):  # what every call of a compiled function asks for: no keys are made
            return [getattr(obj, name) for name in data], tuple(getattr(obj, name) for name in static)

        def flatten(obj):
            keys = [(jax.tree_util.GetAttrKey(name), getattr(obj, name)) for name in data]
            return keys, tuple(getattr(obj, name) for name in static)

        def unflatten(meta, values):
            obj = object.__new__(cls)
            for name, value in (*zip(static, meta, strict=True), *zip(data, values, strict=True)):
                object.__setattr__(obj, name, value)
            return obj

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten, children)
        return cls

    return register


def replaced(obj: Any, **changes: Any) -> Any:
    """A copy of a pytree dataclass with some fields changed and nothing checked: for data made from checked data."""
    copy = object.__new__(type(obj))
    for field in dataclasses.fields(obj):
        object.__setattr__(copy, field.name, changes.get(field.name, getattr(obj, field.name)))
    return copy


# The largest whole number that JAX holds without x64: a number beyond it must be a float, a count of steps stays below.
LARGEST = 2**31 - 1


class ProblemError(ValueError):
    """The data of a problem are unusable; the message names the argument, what it has and what it must have."""


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> None:
    """Refuse an option that is not a real number in its range (booleans and strings are not numbers; tracers pass)."""
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.floating | np.integer):
        raise ProblemError(f"{name} is {value!r}, a {type(value).__name__}; it must be a number")
    _check_range(name, value, at_least=at_least, above=above, at_most=at_most, below=below, infinite=infinite)
    if isinstance(value, int | np.integer) and abs(int(value)) > LARGEST:
        raise ProblemError(f"{name} is {value!r}, more than JAX's whole numbers hold; write it as a float")


def check_integer(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> None:
    """Refuse an option that is not a whole number in its range (True, 2.0 and "3" are not whole numbers)."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ProblemError(f"{name} is {value!r}, a {type(value).__name__}; it must be a whole number")
    _check_range(name, value, at_least=at_least, at_most=at_most)


def check_flag(name: str, value: Any) -> None:
    """Refuse an option that is not True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ProblemError(f"{name} is {value!r}, a {type(value).__name__}; it must be True or False")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse an option that is not one of `choices`."""
    choices = tuple(choices)
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ProblemError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _check_range(name, value, *, at_least=None, above=None, at_most=None, below=None, infinite=False) -> None:
    wanted = []
    for words, limit, good in (
        ("at least", at_least, at_least is None or value >= at_least),
        ("above", above, above is None or value > above),
        ("at most", at_most, at_most is None or value <= at_most),
        ("below", below, below is None or value < below),
    ):
        wanted.append((f"{words} {limit:g}", bool(good)) if limit is not None else ("", True))
    if value != value or (not infinite and abs(value) == float("inf")):
        raise ProblemError(f"{name} is {value!r}; it must be a finite number")
    if not all(good for _, good in wanted):
        raise ProblemError(f"{name} is {value!r}; it must be {' and '.join(words for words, _ in wanted if words)}")
