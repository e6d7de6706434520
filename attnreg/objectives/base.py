"""What solvers see of a problem: a first-order objective, and a second-order one.

    Objective              value(x)  value_and_grad(x)  zeros()  start()  check(x)  costs()  rounding(x)
    SecondOrderObjective   and  linearize(x) -> Linearization with .hvp(v)  value_grad_hessian(x)  preconditioner(x)

An objective of your own is a pytree (`attnreg.problems.checks.pytree_dataclass`) with these methods. A solver that
needs what an objective does not have refuses it before anything is compiled.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.lift.kronecker import Preconditioner
from attnreg.objectives.derivatives import with_rule
from attnreg.problems.arrays import placed
from attnreg.problems.checks import ProblemError, check_choice, check_flag

Cache = Literal["auto", "none", "entries", "blocks"]

# What a cache may hold before `cache="auto"` refuses it.
CACHE_BYTES = 2**28


def compiled(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Method decorator: the method as one program, compiled once for each shape of its object and its arguments.

    Called inside another program it is a part of that program, as if it were not decorated. `static` names keyword
    options that select the program. The unknowns are checked before anything is traced: the first is `x`, a second `V`.
    A method called `value` or `value_and_grad` gets the closed forms as its derivatives (`objectives.derivatives`), so
    it must not be made of JAX's derivatives of the other.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        program = jax.jit(with_rule(method), static_argnames=static, inline=True)

        @functools.wraps(method)
        def call(self: Any, *unknowns: Any, **options: Any) -> Any:
            for x, name in zip(unknowns, ("", "V"), strict=False):
                self.check(x, name)
            if "gauss_newton" in options:
                check_flag("gauss_newton", options["gauss_newton"])
            if "cache" in options:
                check_choice("cache", options["cache"], self.CACHES)
            return program(self, *unknowns, **options)

        return call

    return decorate


class Linearization(abc.ABC):
    """Value, gradient and Hessian-vector products at one point, with whatever was worth keeping.

    Raises: ProblemError for a vector that is not shaped like the unknowns.
    """

    value: jax.Array
    gradient: Any

    @abc.abstractmethod
    def hvp(self, v: Any, /) -> Any:
        """The Hessian (or Gauss–Newton matrix) at the point, times `v`, shaped like the unknowns."""

    def check(self, v: Any, name: str = "V") -> None:
        """Refuse a `v` that is not shaped like the unknowns: nothing is broadcast.

        Raises: ProblemError.
        """
        check_like(v, self.gradient, name or "V")


def by_products(line: Linearization, x: Any) -> jax.Array:
    """The dense matrix (p, p) of a linearisation at x by one product per unknown: for small sizes."""
    flat, unravel = ravel_pytree(x)
    return jax.lax.map(lambda e: ravel_pytree(line.hvp(unravel(e)))[0], jnp.eye(flat.size, dtype=flat.dtype))


class Costs(NamedTuple):
    """What an evaluation costs.

    Args:
        gradient: flops of one value and gradient. hessian: flops of one dense Hessian. unknowns: how many there are.
    """

    gradient: float
    hessian: float
    unknowns: int


class Objective(abc.ABC):
    """A loss of unknowns, with its gradient. Unknowns are an array or a NamedTuple of arrays.

    Raises: ProblemError for unknowns of another structure, shape or dtype.
    """

    @abc.abstractmethod
    def value(self, x: Any, /) -> jax.Array:
        """The loss, a scalar."""

    @abc.abstractmethod
    def value_and_grad(self, x: Any, /) -> tuple[jax.Array, Any]:
        """The loss, a scalar, and its gradient, shaped like x."""

    @abc.abstractmethod
    def zeros(self) -> Any:
        """The unknowns, all zero: their structure, shapes and dtype."""

    def start(self) -> Any:
        """Where a solver starts when it is not told; zeros, unless they are a saddle."""
        # From the host: eager `jnp.zeros` compiles a program for each new shape.
        return jax.tree.map(lambda like: placed(np.zeros(like.shape, like.dtype)), jax.eval_shape(self.zeros))

    def check(self, x: Any, name: str = "") -> None:
        """Refuse unknowns of another structure, shape or dtype; `name` is what the message calls them."""
        check_like(x, jax.eval_shape(self.zeros), name)

    def costs(self) -> Costs | None:
        """What one evaluation costs, for `method="auto"`; None when the objective cannot say."""
        return None

    def differentiable(self) -> "Objective":
        """The same objective in operations that JAX can differentiate: itself, unless it has kernels."""
        return self

    def rounding(self, x: Any, /) -> jax.Array | None:
        """The size of the rounding error in the gradient's norm at x, a scalar; None when it is not known."""
        del x
        return None


class SecondOrderObjective(Objective):
    """An objective with curvature. Matrices are over `ravel_pytree(x)`. `CACHES` lists what `linearize` can keep.

    TRANSPOSABLE says that JAX sees `hvp` to be linear in v, and can transpose it: second derivatives are then products.
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none")
    TRANSPOSABLE: ClassVar[bool] = True

    @abc.abstractmethod
    def linearize(self, x: Any, /, *, gauss_newton: bool = False, cache: Cache = "auto") -> Linearization:
        """Value, gradient and Hessian-vector products at x."""

    @abc.abstractmethod
    def value_grad_hessian(self, x: Any, /, *, gauss_newton: bool = False) -> tuple[jax.Array, Any, jax.Array]:
        """Value, gradient, and the dense Hessian (or Gauss–Newton matrix) (p, p)."""

    def chosen_hessian(self, x: Any, gauss_newton: jax.Array, /) -> jax.Array:
        """The Gauss–Newton matrix where the boolean scalar says so, else the exact Hessian, (p, p).

        A program that is to choose while it runs holds both; an objective that can make either in one pass says how.
        """
        return jax.lax.cond(gauss_newton, self.gauss_newton, self.hessian, x)

    @abc.abstractmethod
    def preconditioner(self, x: Any, /) -> Preconditioner:
        """A positive semidefinite approximation of the Hessian that is cheap to invert."""

    def hvp(self, x: Any, v: Any, /, *, gauss_newton: bool = False) -> Any:
        """Hessian at x times v, nothing cached; shaped like x."""
        return _hvp(self, x, v, gauss_newton=gauss_newton)

    def hessian(self, x: Any, /) -> jax.Array:
        """The exact dense Hessian (p, p)."""
        return self.value_grad_hessian(x)[2]

    def gauss_newton(self, x: Any, /) -> jax.Array:
        """The dense Gauss–Newton matrix (p, p)."""
        return self.value_grad_hessian(x, gauss_newton=True)[2]


@compiled("gauss_newton")
def _hvp(objective: SecondOrderObjective, x: Any, v: Any, *, gauss_newton: bool) -> Any:
    return objective.linearize(x, gauss_newton=gauss_newton, cache="none").hvp(v)


def check_like(x: Any, want: Any, name: str = "") -> None:
    """Refuse an `x` whose structure, shapes or dtypes are not those of `want`.

    `want` is an array (or its shape) or a NamedTuple of them, some of which may be None. An unnamed array is called X,
    the fields of an unnamed tuple have their own names, and those of a named one are `name.field`.
    """
    if isinstance(want, tuple):
        if type(x) is not type(want):
            fields = ", ".join(type(want)._fields)  # type: ignore[attr-defined]
            raise ProblemError(
                f"{name or 'the unknown'} is a {type(x).__name__}; it must be {type(want).__name__}({fields})"
            )
        for field, part, like in zip(type(want)._fields, x, want, strict=True):  # type: ignore[attr-defined]
            if part is not None or like is not None:
                _check_array(part, like, f"{name}.{field}" if name else field)
    else:
        _check_array(x, want, name or "X")


def _check_array(x: Any, want: Any, name: str) -> None:
    if want is None:
        raise ProblemError(f"{name} is a {type(x).__name__}; it must be None")
    if not isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        raise ProblemError(f"{name} is a {type(x).__name__}; it must be an array of shape {want.shape}")
    if x.shape != want.shape:
        raise ProblemError(f"{name} has shape {x.shape}; it must be {want.shape}")
    if x.dtype != want.dtype:
        raise ProblemError(
            f"{name} has dtype {x.dtype}, the data have {want.dtype}; cast one of them with .astype(...)"
        )
