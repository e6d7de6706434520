"""The programs that are compiled: what users run, at the sizes at which they run it; shapes only, no arrays."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.lift.precision import curvature_precision, steering
from attnreg.objectives import AttentionObjective, FactoredObjective, LayerObjective, OneLayerObjective
from attnreg.problems import AttentionRegression, LayerRegression, OneLayerRegression, Teacher
from attnreg.problems.checks import replaced
from attnreg.solvers import LBFGS, Newton, NewtonCG

# Cycles of a millisecond of a TPU v5e.
MS = 1.5e6


class Case(NamedTuple):
    """A program and the shapes of its arguments. most: kernels it may launch outside loops on an H100, and trips of its
    longest loop there; cycles: that it may take on a TPU v5e by the compiler's estimate. None: nothing was promised."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    most: int | None = None
    trips: int | None = None
    cycles: float | None = None


def value_and_grad(objective, x):
    return objective.value_and_grad(x)


def hessian(objective, x):
    return objective.value_grad_hessian(x)


def hvp(objective, x, v):
    return objective.hvp(x, v)


def product(objective, x, v):
    """Linearise with a cache, and one product."""
    return objective.linearize(x, gauss_newton=True).hvp(v)


def three_passes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of what only steers, in the precision that a solver takes on a TPU and may take on a GPU."""

    def steered(*arguments):
        with curvature_precision("three_passes"), steering():
            return function(*arguments)

    return steered


def short_product(objective, x, v):
    """`product`, whose product is of three passes, while value, gradient and cache are not."""
    return three_passes(objective.linearize(x, gauss_newton=True).hvp)(v)


def preconditioned(objective, x, v):
    return objective.preconditioner(x).solve(v, relative=jnp.asarray(0.1, jax.tree.leaves(v)[0].dtype))


def _shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))


def attention(dtype, k, n, d, *, teacher=False, **options):
    """An objective in X whose arrays are shapes."""
    one = np.ones((1, 1), dtype)
    small = AttentionRegression(one, one, Teacher(one, one) if teacher else one)
    rows = _shape(dtype, k, n, d)
    B = replaced(small.B, Q=rows, K=rows) if teacher else _shape(dtype, k, n, n)
    problem = replaced(small, A1=rows, A2=rows, B=B, ridge=_shape(dtype))
    return problem, AttentionObjective(problem, **options), _shape(dtype, d, d)


def cases(dtype: str) -> Iterator[Case]:
    """Every case in one precision."""
    _, reduced, X = attention(dtype, 8, 64, 17)
    yield Case("reduced head 8x64, d 17: value and gradient", value_and_grad, (reduced, X), most=16)
    yield Case("reduced head 8x64, d 17: Hessian", hessian, (reduced, X))
    _, wide, X = attention(dtype, 1, 2048, 32)
    yield Case("n 2048, d 32: value and gradient", value_and_grad, (wide, X), most=20, cycles=0.25 * MS)
    yield Case("n 2048, d 32: Hessian", hessian, (wide, X))
    yield Case("n 2048, d 32: product, nothing cached", hvp, (wide, X, X))
    short = three_passes(hessian), three_passes(hvp)
    yield Case("n 2048, d 32: Hessian, three passes", short[0], (wide, X), cycles=0.33 * MS)
    yield Case("n 2048, d 32: product, nothing cached, three passes", short[1], (wide, X, X), cycles=0.22 * MS)
    _, long, X = attention(dtype, 1, 16384, 32, teacher=True)
    yield Case("n 16384, d 32, low-rank targets: value and gradient", value_and_grad, (long, X))
    problem, _, _ = attention(dtype, 4, 512, 384)
    head = FactoredObjective(problem, 32)
    x = jax.eval_shape(head.zeros)
    yield Case("full head 4x512, d 384, rank 32: value and gradient", value_and_grad, (head, x), most=32)
    yield Case("full head 4x512, d 384, rank 32: product", product, (head, x, x))
    yield Case("full head 4x512, d 384, rank 32: product, three passes", short_product, (head, x, x))
    yield Case("full head 4x512, d 384, rank 32: preconditioner", preconditioned, (head, x, x))
    yield from _one_layer(dtype)
    yield from _fused(dtype)
    yield from _layer(dtype)
    yield from _solvers(dtype)


def _fused(dtype: str) -> Iterator[Case]:
    """The same programs with hand-written kernels, which float32 has."""
    _, reduced, X = attention(dtype, 8, 64, 17, kernel="fused")
    yield Case("fused, reduced head 8x64, d 17: value and gradient", value_and_grad, (reduced, X), most=12)
    _, wide, X = attention(dtype, 1, 2048, 32, kernel="fused")
    yield Case("fused, n 2048, d 32: value and gradient", value_and_grad, (wide, X), most=10, cycles=0.25 * MS)
    yield Case("fused, n 2048, d 32: product", hvp, (wide, X, X), most=16)
    _, broad, X = attention(dtype, 1, 2048, 64, kernel="fused")
    yield Case("fused, n 2048, d 64: product", hvp, (broad, X, X), most=16)
    _, long, X = attention(dtype, 1, 16384, 32, teacher=True, kernel="fused")
    yield Case("fused, n 16384, d 32, low-rank targets: value and gradient", value_and_grad, (long, X), most=16)
    objective, x = one_layer(dtype, kernel="fused")
    name = "fused, one layer n 131072, d 16"
    yield Case(f"{name}: value and gradient", value_and_grad, (objective, x), most=24, cycles=800 * MS)
    yield Case(f"{name}: product", hvp, (objective, x, x), most=40)


def one_layer(dtype: str, **options):
    """A one-layer objective of 131,072 rows whose arrays are shapes, and its unknowns."""
    n, d = 131072, 16
    one, rows = np.ones((1, 1), dtype), _shape(dtype, 1, n, d)
    small = OneLayerRegression(one, one, one, one)
    numbers = {"ridge": _shape(dtype), "ridge_y": _shape(dtype)}
    objective = OneLayerObjective(replaced(small, A1=rows, A2=rows, A3=rows, B=rows, **numbers), **options)
    return objective, jax.eval_shape(objective.zeros)


def _one_layer(dtype: str) -> Iterator[Case]:
    objective, x = one_layer(dtype)
    yield Case("one layer n 131072, d 16: value and gradient", value_and_grad, (objective, x), trips=2000)
    yield Case("one layer n 131072, d 16: product, nothing cached", hvp, (objective, x, x), trips=2000)


def _layer(dtype: str) -> Iterator[Case]:
    k, n, d = 100, 256, 384
    small = LayerRegression(np.ones((1, 2, 2), dtype), np.ones((1, 2, 2), dtype))
    for heads, width in ((1, None), (12, 32)):
        c = 32 if width is None else d
        problem = replaced(small, A=_shape(dtype, k, n, d), B=_shape(dtype, k, n, c))
        objective = LayerObjective(problem, heads, 32, width)
        x = jax.eval_shape(objective.zeros)
        name = f"layer of {heads} heads, 100x256, d 384"
        yield Case(f"{name}: value and gradient", value_and_grad, (objective, x))
        yield Case(f"{name}: product", product, (objective, x, x))
        most = 0.5 * MS if heads == 1 else None
        yield Case(f"{name}: product, three passes", short_product, (objective, x, x), cycles=most)


def _solvers(dtype: str) -> Iterator[Case]:
    _, small, X = attention(dtype, 2, 48, 4)
    for solver in (Newton(max_steps=5), NewtonCG(max_steps=5), LBFGS(max_steps=5)):
        yield Case(f"{type(solver).__name__} on 2x48, d 4", solver.run, (small, X))
