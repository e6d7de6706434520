"""Uniform and normal draws, equal to `jax.random`'s bit for bit and several times cheaper on a CPU.

XLA fuses the bit generator into whatever consumes the bits. On a CPU the fused loop is not vectorised and
recomputes; a barrier between the bits and their conversion keeps both loops vectorised. The values are those
of `jax.random.uniform` / `normal` for the flat shape, so a stream stays reproducible without this module.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BITS = {jnp.dtype("float32"): (jnp.uint32, 23), jnp.dtype("float64"): (jnp.uint64, 52)}


def _unit_interval(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Uniform floats in [0, 1): random mantissa bits under the exponent of 1, minus 1."""
    dtype = jnp.dtype(dtype)
    if dtype not in _BITS:
        raise TypeError(f"dtype is {dtype.name}; draws exist for float32 and float64")
    integer, mantissa = _BITS[dtype]
    bits = jax.lax.optimization_barrier(jax.random.bits(key, (math.prod(shape),), integer))
    one = np.ones((), dtype).view(jnp.dtype(integer))
    shifted = (bits >> integer(jnp.finfo(dtype).bits - mantissa)) | one
    return (jax.lax.bitcast_convert_type(shifted, dtype) - 1).reshape(shape)


def uniform(key: jax.Array, shape: Sequence[int], dtype: Any, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Independent draws from U[low, high), an array of `shape` and `dtype`.

    Args:
        key: a typed key (`jax.random.key`, either implementation).
        shape: the shape of the result.
        dtype: float32 or float64 (the latter needs `jax_enable_x64`).
        low: lower end, Python float.
        high: upper end, Python float.

    Returns: array of shape `shape` and of `dtype`.
    Precision: equal to `jax.random.uniform(key, (size,), dtype, low, high)` bit for bit (`test_draws`).
    Cost: 20 rounds of threefry a draw; `experiments/icl/speed.py` measures it against `jax.random`.
    Raises: TypeError for another dtype.

    >>> import jax, jax.numpy as jnp
    >>> x = uniform(jax.random.key(0), (2, 3), jnp.float32, low=-1.0, high=1.0)
    >>> x.shape, bool(jnp.all(abs(x) <= 1))
    ((2, 3), True)
    """
    lower, upper = np.asarray(low, dtype), np.asarray(high, dtype)
    return jnp.maximum(lower, _unit_interval(key, shape, dtype) * (upper - lower) + lower)


def normal(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Independent standard normal draws `√2 erf⁻¹(U)`, `U` uniform on (−1, 1), an array of `shape` and `dtype`.

    Args:
        key: a typed key.
        shape: the shape of the result.
        dtype: float32 or float64.

    Returns: array of shape `shape` and of `dtype`.
    Precision: equal to `jax.random.normal(key, (size,), dtype)` bit for bit (`test_draws`).
    Cost: one uniform and one `erf_inv` a draw.
    Raises: TypeError for another dtype.

    >>> import jax, jax.numpy as jnp
    >>> normal(jax.random.key(0), (4,), jnp.float32).shape
    (4,)
    """
    low = np.nextafter(np.asarray(-1.0, dtype), np.asarray(0.0, dtype), dtype=jnp.dtype(dtype))
    return jax.lax.erf_inv(uniform(key, shape, dtype, low=float(low), high=1.0)) * np.asarray(np.sqrt(2), dtype)
