"""How exact products of float32 matrices are: full for values and gradients, three passes for what only steers.

The matrix units of accelerators multiply short numbers. A TPU makes an exact float32 product of six passes of bfloat16;
three leave a relative error of about 2⁻¹⁷. Curvature of that precision costs Newton and Gauss–Newton no step, where one
pass costs many (tests/lift/test_precision.py). Values and gradients decide what is accepted and when to stop: they are
never computed so.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.problems.checks import check_choice

PRECISION = jax.lax.Precision.HIGHEST
CHOICES = ("highest", "three_passes")
# By platform. On a GPU nobody has measured whether three passes of TF32 are faster.
RULES = {"cpu": "highest", "gpu": "highest", "tpu": "three_passes"}
_ALGORITHMS = {
    "gpu": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "tpu": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
}
# JAX makes both a part of the key of every program, so that none is taken for another.
_asked = jax.make_user_context(default_value=None)
_now = jax.make_user_context(default_value="highest")


@contextlib.contextmanager
def curvature_precision(choice: str) -> Iterator[None]:
    """What is solved inside steers with products of this precision, whatever the rule of the platform is.

    Args:
        choice: "highest", or "three_passes": of bfloat16 on a TPU, of TF32 on a GPU. On a CPU three passes of bfloat16
            are imitated, for tests.

    Raises: ProblemError for another choice.

    >>> with curvature_precision("highest"):
    ...     pass  # solver.run(objective, start)
    """
    check_choice("choice", choice, CHOICES)
    with _asked(choice):
        yield


def chosen() -> str:
    """The precision of what steers: what was asked for, or the rule of JAX's default platform."""
    return _asked.value or RULES.get(jax.default_backend(), "highest")


@contextlib.contextmanager
def steering() -> Iterator[None]:
    """Products inside only steer a solver: Hessians, and Hessian-vector products."""
    with _now(chosen()):
        yield


def product(multiply: Callable[..., jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
    """`multiply(a, b, precision=…)`, bilinear in a (…, n) and b (…, m), shaped (…, k), in the precision of now."""
    short = _now.value == "three_passes" and a.dtype == b.dtype == jnp.float32
    if not short:
        return multiply(a, b, precision=PRECISION)
    algorithm: Any = _ALGORITHMS.get(jax.default_backend())
    if algorithm is not None:
        return multiply(a, b, precision=algorithm)
    (a, rest_of_a), (b, rest_of_b) = _parts(a), _parts(b)
    exact = lambda x, y: multiply(x, y, precision=PRECISION)  # noqa: E731
    return exact(a, b) + (exact(a, rest_of_b) + exact(rest_of_a, b))


def _parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x to the 8 bits of a bfloat16, and what is left, to 8 bits; a cast there and back might be left out."""
    rounded = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return rounded, jax.lax.reduce_precision(x - rounded, exponent_bits=8, mantissa_bits=7)
