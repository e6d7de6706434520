"""What the one-layer docstrings claim about memory, measured on the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.problems.one_layer import OneLayerRegression, Unknowns

D = 4


def temporary_bytes(n: int, method: str) -> int:
    """Bytes a compiled method needs beside its arguments and results."""
    data = jax.ShapeDtypeStruct((1, n, D), jnp.float64)
    square = jax.ShapeDtypeStruct((D, D), jnp.float64)
    params = Unknowns(square, square)

    def value_and_grad(data, params):
        return OneLayerObjective(OneLayerRegression(*data)).value_and_grad(params)

    def hvp(data, params):
        return OneLayerObjective(OneLayerRegression(*data)).hvp(params, params)

    program = {"value_and_grad": value_and_grad, "hvp": hvp}[method]
    compiled = jax.jit(program).lower((data,) * 4, params).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("method", ["value_and_grad", "hvp"])
def test_memory_grows_with_the_rows_and_never_holds_a_map(method):
    small, large = (temporary_bytes(n, method) for n in (8192, 32768))
    # A map at the larger size would be 8.6 GB. Blocks are of bounded size; only vectors and copies of the data may
    # grow.
    assert large < 64e6
    assert large - small <= 64 * D * 8 * (32768 - 8192)
