"""Checks of a problem's arrays, shared by all problems: dtype, shape, finiteness, documents, mask, weight and ridge.

Every refusal is a `ProblemError` that names the argument, what it has and what it must have. Values are looked at only
when they are concrete: under `jit` and `vmap` shapes and dtypes are checked, finiteness is not.
"""

import math
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from attnreg.problems.checks import ProblemError, check_flag, check_number

WANTED = "float32 or float64"


def as_array(name: str, value: Any, shape: str) -> jax.Array:
    """`value` as a float32 or float64 JAX array of its own dtype; `shape` says in the message what it must be.

    Lists of Python floats take JAX's default dtype. A float64 NumPy array is refused while x64 is off, because JAX
    would round it to float32 without a word.
    """
    if value is None:
        raise ProblemError(f"{name} is None; it must be an array {shape}")
    if isinstance(value, np.ma.MaskedArray):
        raise ProblemError(f"{name} is a masked array, whose mask would be lost; fill it, and pass mask=... apart")
    if not isinstance(value, jax.Array):
        value = _from_host(name, value, shape)
    if value.dtype not in (np.float32, np.float64):
        raise ProblemError(f"{name} has dtype {value.dtype}; it must be {WANTED}{_cure(value.dtype)}")
    return value


def _from_host(name: str, value: Any, shape: str) -> jax.Array | np.ndarray:
    """A JAX array from what is not one yet; NumPy arrays of dtypes that `as_array` refuses come back as they are."""
    try:
        host = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name} is not an array ({error}); it must be an array {shape}") from None
    if host.dtype.kind in "OSU":
        raise ProblemError(f"{name} is {_short(value)}, not an array of numbers; it must be an array {shape}")
    if host.dtype.newbyteorder("=") not in (np.float32, np.float64):
        return host
    array = placed(host.astype(host.dtype.newbyteorder("="), copy=False))
    if array.dtype != host.dtype.newbyteorder("=") and not _is_python(value):
        raise ProblemError(
            f"{name} has dtype float64, but JAX computes in float32 unless told otherwise; pass "
            f"{name}.astype(np.float32), or call jax.config.update('jax_enable_x64', True) before anything else"
        )
    return array


def placed(value: Any) -> jax.Array:
    """A JAX array as it is, and a copy of anything else as one. `jnp.asarray` compiles a program for each new shape."""
    if isinstance(value, jax.Array):
        return value
    return jax.device_put(np.array(value))  # a copy, since on a CPU JAX would go on reading the caller's memory


def _is_python(value: Any) -> bool:
    """Whether a value is a Python number or lists of them, which have no precision of their own."""
    if isinstance(value, list | tuple):
        return all(map(_is_python, value))
    return isinstance(value, float | int)


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return f"{text if len(text) <= 40 else text[:37] + '...'}, a {type(value).__name__}"


def _cure(dtype: Any) -> str:
    if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4:
        return ": sums over keys in fewer bits lose the residuals that are fitted; pass .astype(np.float32)"
    if jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_:
        return "; pass .astype(np.float32)"
    return ""


def checked_arrays(**wanted: tuple[Any, str]) -> tuple[dict[str, jax.Array], tuple[int, ...]]:
    """Arrays that belong together, with all leading axes merged into one document axis, and those leading axes.

    Each argument is `name=(value, letters)`: letters "n d1" ask for (…, n, d1). A letter has one size in all arrays, as
    the first that has it says. Leading axes are equal in all arrays; one document may have any number of axes of 1.
    """
    arrays: dict[str, jax.Array] = {}
    first = ""
    lead: tuple[int, ...] = ()
    known: dict[str, tuple[int, str]] = {}
    for name, (value, letters) in wanted.items():
        axes = letters.split()
        shape = f"(…, {', '.join(axes)})"
        array = as_array(name, value, shape)
        if array.ndim < len(axes):
            raise ProblemError(f"{name} has shape {array.shape}; it must be {shape}")
        check_not_empty(name, array)
        split = array.ndim - len(axes)
        own = array.shape[:split]
        if not arrays:
            lead, first = own, name
        elif own != lead and not math.prod(own) == math.prod(lead) == 1:
            raise ProblemError(
                f"{name} has shape {array.shape}, with leading axes {own}, but {first} has leading axes {lead}; the "
                f"documents must match: {name} must be {_spelled(lead, axes)}"
            )
        for letter, size in zip(axes, array.shape[split:], strict=True):
            have, whose = known.setdefault(letter, (size, name))
            if size != have:
                full = [str(known[a][0]) if a in known else a for a in axes]
                raise ProblemError(
                    f"{name} has shape {array.shape}: its {letter} is {size}, but {whose} gives {letter} = {have}; "
                    f"{name} must be {shape} = (…, {', '.join(full)})"
                )
        arrays[name] = array.reshape((-1, *array.shape[split:]))
    check_same_dtype(**arrays)
    check_finite(**arrays)
    return arrays, lead


def _spelled(lead: tuple[int, ...], axes: list[str]) -> str:
    return f"({', '.join([*map(str, lead), *axes])})"


def check_not_empty(name: str, array: Any) -> None:
    """Refuse an axis of length 0."""
    if 0 in array.shape:
        raise ProblemError(f"{name} has shape {array.shape}: an empty axis; every axis must be at least 1")


def check_finite(**arrays: jax.Array) -> None:
    """Refuse NaN and infinities in concrete arrays (tracers pass)."""
    for name, array in arrays.items():
        if isinstance(array, jax.core.Tracer):
            continue
        xp, values = _looked_at(array)
        with np.errstate(over="ignore", invalid="ignore"):
            fine = bool(xp.isfinite(xp.sum(values)))  # no array of flags, where a sum can tell
        if not fine and not xp.all(xp.isfinite(values)):
            bad = int(xp.sum(~xp.isfinite(values)))
            raise ProblemError(f"{name} has {bad} NaN or infinite entries of {array.size}; clean the data first")


def check_nonnegative(name: str, array: jax.Array, why: str) -> None:
    """Refuse negative entries in a concrete array (tracers pass)."""
    if isinstance(array, jax.core.Tracer):
        return
    xp, values = _looked_at(array)
    if xp.any(values < 0):
        bad, low = int(xp.sum(values < 0)), float(xp.min(values))
        raise ProblemError(f"{name} has {bad} negative entries of {array.size}, down to {low:g}; {why}")


def _looked_at(array: jax.Array) -> tuple[Any, Any]:
    """What to look at values with, and the array for it: NumPy on a CPU, where that neither copies nor compiles."""
    devices = array.devices()
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return np, np.asarray(array)
    return jnp, array


def check_same_dtype(**arrays: jax.Array) -> None:
    """Refuse mixed precision: nothing is promoted silently."""
    if len({array.dtype for array in arrays.values()}) > 1:
        have = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise ProblemError(f"all arrays must have one dtype, but have {have}; cast them with .astype(...)")


def checked_mask(value: Any, lead: tuple[int, ...], n: int, m: int) -> jax.Array | None:
    """A boolean mask as (k|1, n|1, m|1) from anything that broadcasts to (*lead, n, m); k is the product of lead."""
    if value is None:
        return None
    try:
        mask = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"mask is not an array ({error}); it must broadcast to {(*lead, n, m)}") from None
    if mask.dtype != np.bool_:
        raise ProblemError(
            f"mask has dtype {mask.dtype}; it must be boolean, True where a key may be attended, e.g. mask > 0"
        )
    return per_document("mask", jnp.asarray(mask), lead, n, m)


def checked_weight(value: Any, lead: tuple[int, ...], n: int, m: int, dtype: Any) -> jax.Array | None:
    """W of the regularizer as (k|1, n|1, m|1) from a number, or an array that broadcasts to (*lead, n, m)."""
    if value is None:
        return None
    return per_document("weight", number_or_array("weight", value, (*lead, n, m), dtype), lead, n, m)


def number_or_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Weights as an array of `dtype`, finite, from a number or from what is an array already; shape: for the words."""
    if _is_scalar(value):
        check_number(name, value)
        _check_representable(name, value, dtype)
        return _scalar(value, dtype)
    weight = as_array(name, value, f"that broadcasts to {shape}")
    if _is_python(value):
        weight = weight.astype(dtype)
    if weight.dtype != dtype:
        raise ProblemError(f"{name} has dtype {weight.dtype}, the data have {dtype}; cast one of them")
    check_finite(**{name: weight})
    return weight


def _is_scalar(value: Any) -> bool:
    """Whether a value is a number, or wrongly something that is no array at all: `check_number` tells."""
    if isinstance(value, np.generic):
        return True
    return not isinstance(value, jax.Array | np.ndarray | list | tuple) and not hasattr(value, "__array__")


def _scalar(value: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(value, dtype) if isinstance(value, jax.Array) else placed(np.asarray(value, dtype))


def _check_representable(name: str, value: Any, dtype: Any) -> None:
    """Refuse a number that overflows the dtype of the data."""
    if not isinstance(value, jax.core.Tracer) and abs(value) > float(jnp.finfo(dtype).max):
        raise ProblemError(f"{name} is {value!r}, too large for the data's {dtype}; cast the data or take less")


def check_dtype(name: str, dtype: Any, *, host: bool = False) -> None:
    """Refuse a dtype that is neither float32 nor float64; for JAX arrays (not `host`) also float64 while x64 is off."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise ProblemError(f"{name} is {dtype!r}; it must be {WANTED}") from None
    if wanted not in (np.float32, np.float64):
        raise ProblemError(f"{name} is {wanted}; it must be {WANTED}")
    if not host and jnp.asarray(np.zeros((), wanted)).dtype != wanted:
        raise ProblemError(f"{name} is float64; call jax.config.update('jax_enable_x64', True) before anything else")


def per_document(name: str, array: jax.Array, lead: tuple[int, ...], n: int, m: int) -> jax.Array:
    """`array` as (k|1, n|1, m|1); its leading axes broadcast against `lead` as in NumPy."""
    check_not_empty(name, array)
    full = array.reshape((1,) * max(0, 2 - array.ndim) + array.shape)
    own, tail = full.shape[:-2], full.shape[-2:]
    if math.prod(own) == 1:
        own, full = (), full.reshape(tail)
    extra = len(lead) - len(own)
    fits = extra >= 0 and all(have in (1, want) for have, want in zip(own, lead[extra:], strict=True))
    if not fits or any(have not in (1, want) for have, want in zip(tail, (n, m), strict=True)):
        raise ProblemError(f"{name} has shape {array.shape}; it must broadcast to (documents, n, m) = {(*lead, n, m)}")
    if own:
        full = jnp.broadcast_to(full.reshape((1,) * extra + full.shape), (*lead, *tail))
    return full.reshape((-1, *tail))


def check_causal(causal: Any, n: int, m: int) -> None:
    """Refuse a `causal` that is no flag, or set for a map that is not square."""
    check_flag("causal", causal)
    if causal and n != m:
        raise ProblemError(f"causal=True needs as many keys as queries, but A1 has n = {n} and A2 has m = {m}")


def checked_ridge(name: str, value: Any, dtype: Any) -> jax.Array:
    """A coefficient, finite and at least 0, as a scalar array of `dtype`; inside `jit` its value is not looked at."""
    return _checked_scalar(name, value, dtype, at_least=0)


def checked_factor(name: str, value: Any, dtype: Any) -> jax.Array | None:
    """A positive finite number as a scalar array of `dtype`, or None; inside `jit` its value is not looked at."""
    return None if value is None else _checked_scalar(name, value, dtype, above=0)


def _checked_scalar(
    name: str, value: Any, dtype: Any, *, at_least: float | None = None, above: float | None = None
) -> jax.Array:
    if not isinstance(value, jax.core.Tracer):
        if not _is_scalar(value) and np.shape(value) != ():
            raise ProblemError(f"{name} has shape {np.shape(value)}; it must be a scalar")
        value = value.item() if isinstance(value, jax.Array | np.ndarray) else value
        check_number(name, value, at_least=at_least, above=above)
        _check_representable(name, value, dtype)
    elif value.ndim != 0 or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ProblemError(f"{name} has shape {value.shape} and dtype {value.dtype}; it must be a floating scalar")
    return _scalar(value, dtype)
