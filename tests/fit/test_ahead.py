"""Programs compiled ahead: compiled once for each shape, whether announced or not, and used for what they were made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.fit.ahead import REMEMBERED, Ahead


@pytest.fixture
def traced():
    """A jitted function and the list of shapes for which it was traced."""
    shapes: list[tuple[int, ...]] = []

    @jax.jit
    def double(x):
        shapes.append(x.shape)
        return {"twice": 2 * x}

    return double, shapes


def test_an_announced_program_is_the_one_that_runs(traced):
    double, shapes = traced
    programs = Ahead()
    will_be = programs.announce(double, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert (will_be["twice"].shape, will_be["twice"].dtype) == ((3,), jnp.float32)
    known = len(shapes)
    for _ in range(2):
        out = programs(double, jnp.arange(3, dtype=jnp.float32))
        np.testing.assert_array_equal(out["twice"], [0, 2, 4])
    assert len(shapes) == known


def test_other_shapes_and_dtypes_are_other_programs(traced):
    double, _ = traced
    programs = Ahead()
    for x in (jnp.arange(3, dtype=jnp.float32), jnp.arange(4, dtype=jnp.float32), jnp.arange(3, dtype=jnp.float64)):
        out = programs(double, x)["twice"]
        assert out.dtype == x.dtype
        np.testing.assert_array_equal(out, 2 * x)


def test_what_was_forgotten_is_compiled_again(traced):
    double, _ = traced
    programs = Ahead()
    for n in (*range(1, REMEMBERED + 3), 1):
        assert programs(double, jnp.ones(n))["twice"].shape == (n,)


def test_an_error_of_the_function_is_its_own():
    @jax.jit
    def wrong(x):
        raise RuntimeError("no such row")

    with pytest.raises(RuntimeError, match="no such row"):
        Ahead()(wrong, jnp.ones(2))
