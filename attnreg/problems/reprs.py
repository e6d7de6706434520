"""How records print: shapes and dtypes in the place of arrays, values of scalars, and no field that has its default."""

import dataclasses
import textwrap
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

WIDTH = 100
# A sequence with more entries is counted, not printed.
ENTRIES = 6

T = TypeVar("T", bound=type)


def compact_repr(cls: T) -> T:
    """Class decorator: a dataclass or NamedTuple whose `repr` is `compact`."""
    cls.__repr__ = compact  # type: ignore[assignment]
    return cls


def compact(record: Any, **said: str) -> str:
    """A dataclass or NamedTuple in a few lines; `said` gives the text of some fields.

    >>> from typing import NamedTuple
    >>> class Pair(NamedTuple):
    ...     Q: np.ndarray
    ...     loss: float
    ...     ridge: float | None = None
    >>> print(compact(Pair(np.ones((3, 2)), 1 / 3)))
    Pair(Q=float64[3,2], loss=0.333333)
    """
    return textwrap.fill(
        _record(record, said), WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _record(record: Any, said: dict[str, str]) -> str:
    parts = []
    for name, default in _fields(type(record)):
        value = getattr(record, name)
        if name in said:
            parts.append(f"{name}={said[name]}")
        elif not _is_default(value, default):
            parts.append(f"{name}={_text(value)}")
    return f"{type(record).__name__}({', '.join(parts)})"


def _fields(cls: Any) -> list[tuple[str, Any]]:
    """Names and defaults of the fields; `dataclasses.MISSING` where there is none."""
    if dataclasses.is_dataclass(cls):
        return [(field.name, field.default) for field in dataclasses.fields(cls) if field.repr]
    return [(name, cls._field_defaults.get(name, dataclasses.MISSING)) for name in cls._fields]


def number(value: Any) -> bool:
    """Whether an array is one number that this process can read: no tracer, not deleted, not elsewhere."""
    if value.ndim or value.dtype.kind not in "biuf" or isinstance(value, Tracer):
        return False
    return isinstance(value, np.ndarray) or (not value.is_deleted() and value.is_fully_addressable)


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        # A problem keeps a number as an array: a ridge of 0 is the default all the same.
        return isinstance(default, int | float) and number(value) and bool(value == default)
    return value is default or (isinstance(value, int | float | str) and value == default)


def _text(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        return _text(value.item()) if number(value) else f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    if hasattr(type(value), "_fields") or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return _record(value, {})
    if isinstance(value, tuple | list | dict):
        return _entries(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = repr(value)
    return text if len(text) <= WIDTH and "\n" not in text else f"<{type(value).__name__}>"


def _entries(value: Any) -> str:
    if len(value) > ENTRIES:
        return f"<{len(value)} entries>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(entry)}" for key, entry in value.items()) + "}"
    inner = ", ".join(map(_text, value))
    return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
