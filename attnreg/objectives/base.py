"""What solvers see of a problem: the methods that every objective has.

value(x)    value_and_grad(x)    value_grad_hessian(x, ...)    kronecker(x)
linearize(x, ...) -> Linearization with .hvp(v)
"""

import abc
from typing import Any, Literal, NamedTuple

import jax

from attnreg.lift.streaming import Block
from attnreg.problems.attention import AttentionRegression
from attnreg.rows import ROWS, logit_regularizer
from attnreg.rows.curvature import Curvature, RowTerms

Cache = Literal["auto", "none", "entries", "blocks"]


# What a cache may hold before `cache="auto"` refuses it.
CACHE_BYTES = 2**28


class Linearization(abc.ABC):
    """Value, gradient and a Hessian-vector product at one point, with whatever was worth keeping."""

    value: jax.Array
    gradient: Any

    @abc.abstractmethod
    def hvp(self, v: Any, /) -> Any:
        """The Hessian (or Gauss–Newton matrix) at the point, times `v`."""


class Costs(NamedTuple):
    """Flops of one value-and-gradient and of one dense Hessian, and the number of unknowns."""

    gradient: float
    hessian: float
    unknowns: int


class Objective(abc.ABC):
    """What solvers see. Unknowns are pytrees of arrays; `hessian` is in the order of `ravel_pytree`."""

    @abc.abstractmethod
    def value(self, x: Any, /) -> jax.Array:
        """The loss."""

    @abc.abstractmethod
    def value_and_grad(self, x: Any, /) -> tuple[jax.Array, Any]:
        """The loss and its gradient."""

    @abc.abstractmethod
    def linearize(self, x: Any, /, *, gauss_newton: bool = False, cache: Cache = "auto") -> Linearization:
        """Value, gradient and Hessian-vector products at x."""

    @abc.abstractmethod
    def value_grad_hessian(self, x: Any, /, *, gauss_newton: bool = False) -> tuple[jax.Array, Any, jax.Array]:
        """Value, gradient, and the dense Hessian over `ravel_pytree(x)`."""

    @abc.abstractmethod
    def kronecker(self, x: Any, /) -> Any:
        """A positive semidefinite Kronecker-factored approximation of the Hessian (see `attnreg.lift.kronecker`)."""

    @abc.abstractmethod
    def zeros(self) -> Any:
        """The unknowns, all zero."""

    def costs(self) -> "Costs | None":
        """What one evaluation costs, for `solve(method="auto")`; None when the objective cannot say."""
        return None

    def hvp(self, x: Any, v: Any, /, *, gauss_newton: bool = False) -> Any:
        """Hessian at x times v, nothing cached."""
        return self.linearize(x, gauss_newton=gauss_newton, cache="none").hvp(v)

    def hessian(self, x: Any, /) -> jax.Array:
        """The exact dense Hessian over `ravel_pytree(x)`."""
        return self.value_grad_hessian(x)[2]

    def gauss_newton(self, x: Any, /) -> jax.Array:
        """The dense Gauss–Newton matrix over `ravel_pytree(x)`."""
        return self.value_grad_hessian(x, gauss_newton=True)[2]


def row_terms(problem: AttentionRegression, block: Block, s: jax.Array) -> RowTerms:
    """The problem's row function and regularizer on a block of logits s (r, m)."""
    terms = ROWS[problem.loss](s, block.b, block.mask)
    if block.weight is None:
        return terms
    extra = logit_regularizer(s, block.weight, block.mask)

    def plus(curvature: Curvature) -> Curvature:
        return curvature._replace(diag=curvature.diag + extra.hessian.diag)

    return RowTerms(
        terms.value + extra.value,
        terms.gradient + extra.gradient,
        plus(terms.hessian),
        plus(terms.gauss_newton),
    )


def curvature_of(terms: RowTerms, gauss_newton: bool) -> Curvature:
    """The exact or the Gauss–Newton curvature of some rows."""
    return terms.gauss_newton if gauss_newton else terms.hessian
