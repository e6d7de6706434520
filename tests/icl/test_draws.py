"""Draws: the bits of jax.random, and the laws they are said to have."""

import jax
import numpy as np
import pytest
import scipy.special

from attnreg.icl import draws


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draws_are_those_of_jax_random_bit_for_bit(dtype):
    key = jax.random.key(3)
    ours = draws.uniform(key, (50, 7), dtype, low=-0.5, high=0.5)
    np.testing.assert_array_equal(ours.ravel(), jax.random.uniform(key, (350,), dtype, -0.5, 0.5))
    np.testing.assert_array_equal(draws.normal(key, (50, 7), dtype).ravel(), jax.random.normal(key, (350,), dtype))


def test_draws_refuse_other_dtypes(key):
    with pytest.raises(TypeError, match="float16"):
        draws.normal(key, (2,), "float16")


@pytest.mark.parametrize(("dtype", "integer", "shift"), [("float32", "uint32", 9), ("float64", "uint64", 12)])
def test_draws_are_the_formulas_on_the_bits(dtype, integer, shift):
    """Independent of jax.random's own conversion: mantissa bits as a fraction, and the inverse normal distribution."""
    key = jax.random.key(5)
    bits = np.asarray(jax.random.bits(key, (2000,), integer)) >> np.asarray(shift, integer)
    unit = bits.astype("float64") / 2.0 ** (23 if dtype == "float32" else 52)
    np.testing.assert_array_equal(draws.uniform(key, (2000,), dtype), unit.astype(dtype))
    expected = np.sqrt(2) * scipy.special.erfinv(2 * unit - 1)
    eps = np.finfo(dtype).eps
    # The end points of (−1, 1) are excluded, and the slope of the inverse at u is about 1/(1 − |2u − 1|).
    tolerance = 64 * eps * (1 + abs(expected)) + eps / np.maximum(1 - abs(2 * unit - 1), eps)
    assert (abs(np.asarray(draws.normal(key, (2000,), dtype)) - expected) <= tolerance).all()
