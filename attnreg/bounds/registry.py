"""The one table of bounds: every quantity, in every variable it depends on, with both constants and their standing.

A `Bound` claims `change(p, p') ≤ constant(norms) · distance(p, p')` for all pairs of points of its domain that
differ in `variable` only. To add one, add a line to `_TABLE` and properties of that
name to `NormByNorm` and `Sharp`: the variables it depends on are those in which the sharp estimate can move.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.bounds import quantities as Q
from attnreg.bounds.domain import VARIABLES, Norms, Point, contains
from attnreg.bounds.estimate import exp, times
from attnreg.bounds.norm_by_norm import NormByNorm, OneLayerNormByNorm
from attnreg.bounds.sharp import OneLayerSharp, Sharp

Direction = dict[str, jax.Array]
Quantity = Callable[[Point], jax.Array]
Change = Callable[[Point, Point, Direction], jax.Array]


@dataclasses.dataclass(frozen=True)
class Bound:
    """One line of the table.

    Attributes:
        family: "softmax", "attention" or "one_layer".
        quantity: name, as in docs/theory/bounds.md.
        variable: field of `Point` that moves.
        change: `(p, p', direction) -> scalar`, the size of the change of the quantity.
        relative: the distance is `e^{‖ΔS‖_∞} − 1` instead of `‖Δvariable‖_F`.
        directions: unknowns along which the quantity is a quadratic form (Hessians), else ().
        status: "proved", or "measured supremum" when the sharp constant is only observed.
        proof: file and section of the derivation.
        attained: where the sharp constant is (nearly) reached.
    """

    family: str
    quantity: str
    variable: str
    change: Change
    relative: bool
    directions: tuple[str, ...]
    status: str
    proof: str
    attained: str

    @property
    def name(self) -> str:
        """`family.quantity.variable`, with the papers' name of the variable."""
        return f"{self.family}.{self.quantity}.{VARIABLES[self.family][self.variable]}"

    @property
    def simplex(self) -> bool:
        """Whether the rows of B must be probability vectors (one-layer targets are free)."""
        return self.family != "one_layer"

    def norm_by_norm(self, norms: Norms) -> float:
        """The published kind of constant on the domain `norms`."""
        chain = OneLayerNormByNorm if self.family == "one_layer" else NormByNorm
        return getattr(chain(norms, self.variable), self.quantity).lip

    def sharp(self, norms: Norms) -> float:
        """The sharp constant on the domain `norms`."""
        chain = OneLayerSharp if self.family == "one_layer" else Sharp
        return getattr(chain(norms, self.variable), self.quantity).lip

    def distance(self, p: Point, p_moved: Point) -> jax.Array:
        """`‖Δvariable‖_F`, a scalar, or `e^{‖ΔS‖_∞} − 1` for a relative bound."""
        if self.relative:
            return jnp.expm1(jnp.max(jnp.abs(Q.logits(p_moved) - Q.logits(p))))
        delta = getattr(p_moved, self.variable) - getattr(p, self.variable)
        return jnp.sqrt(jnp.sum(delta**2))

    def contains(self, norms: Norms, point: Point) -> bool:
        """The domain predicate: norms within their limits, B's rows in the simplex where that is assumed."""
        return contains(norms, point, simplex=self.simplex)


class _Line(NamedTuple):
    """A quantity of some families; its variables follow from the sharp estimate."""

    quantity: str
    families: tuple[str, ...]
    change: Callable[[str], Change]
    proof: str
    attained: str
    relative: bool = False
    directions: tuple[str, ...] = ()
    status: str = "proved"


def _both(quantity: Quantity, p: Point, p2: Point) -> tuple[jax.Array, jax.Array]:
    """`quantity` at both points as one mapped evaluation, which halves the program to compile."""
    values = jax.vmap(quantity)(jax.tree.map(lambda *z: jnp.stack(z), p, p2))
    return values[0], values[1]


def _of(quantity: Quantity) -> Callable[[str], Change]:
    """The 2-norm (Frobenius norm) of the change of an array."""

    def change(p: Point, p2: Point, w: Direction) -> jax.Array:
        before, after = _both(quantity, p, p2)
        return _norm(after - before)

    return lambda family: change


def _relative(quantity: Quantity, scale: Quantity) -> Callable[[str], Change]:
    """The largest entry of the change, relative to `scale` of the unmoved point."""

    def change(p: Point, p2: Point, w: Direction) -> jax.Array:
        before, after = _both(quantity, p, p2)
        return jnp.max(jnp.abs((after - before) / scale(p)))

    return lambda family: change


def _relative_residual(family: str) -> Change:
    def change(p: Point, p2: Point, w: Direction) -> jax.Array:
        before, after = _both(Q.residual_rescaled, p, p2)
        return jnp.max(jnp.sqrt(jnp.sum((after - before) ** 2, axis=1)) / Q.alpha(p))

    return change


def _gradient(unknown: str = "X", rescaled: Q.Rescaled = False) -> Callable[[str], Change]:
    """The change of the gradient in `unknown`, by autodiff of the loss."""
    return lambda family: _of(lambda p: Q.gradient(p, family, unknown=unknown, rescaled=rescaled))(family)


def _hessian(rescaled: Q.Rescaled = False) -> Callable[[str], Change]:
    """`|wᵀ(∇²L(p') − ∇²L(p))w|` for a unit w, which the measurement maximises too."""

    def of(family: str) -> Change:
        def change(p: Point, p2: Point, w: Direction) -> jax.Array:
            before, after = _both(lambda z: Q.curvature(z, w, family, rescaled=rescaled), p, p2)
            return jnp.abs(after - before)

        return change

    return of


def _mixed(family: str) -> Change:
    """The change of `2 D²L[V, W]` for a unit (V, W): the form of the mixed block alone."""

    def change(p: Point, p2: Point, w: Direction) -> jax.Array:
        before, after = _both(lambda z: 2.0 * Q.mixed_curvature(z, w), p, p2)
        return jnp.abs(after - before)

    return change


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x))


_ROWS = ("softmax", "attention")
_LAYER = ("one_layer",)
_CORNER = "one logit at its largest, targets elsewhere, as R grows"
_HALVES = "f = (½, ½, 0, …) along (1, −1, 0, …)"
_TWO = "two-point support, b on the other point, t = "
_MIXED = "sum of terms whose worst cases differ; see the measured table"
_B = "docs/theory/bounds.md"
_TABLE = (
    _Line("u", _ROWS, _of(Q.u), f"{_B}#3", "the largest logit L in one entry"),
    _Line("alpha", _ROWS, _of(Q.alpha), f"{_B}#3", "one logit up, the others equal"),
    _Line("log_alpha", _ROWS, _of(Q.log_alpha), f"{_B}#3", "one logit up, along it"),
    _Line("alpha_inverse", _ROWS, _of(Q.alpha_inverse), f"{_B}#3", "n = 1; looser with n"),
    _Line("f", _ROWS, _of(Q.f), f"{_B}#2", _HALVES),
    _Line("residual", _ROWS, _of(Q.residual), f"{_B}#2", _HALVES),
    _Line("residual_rescaled", _ROWS, _of(Q.residual_rescaled), f"{_B}#5", _CORNER),
    _Line("u_relative", _ROWS, _relative(Q.u, Q.u), f"{_B}#3", "every upward move", relative=True),
    _Line("alpha_relative", _ROWS, _relative(Q.alpha, Q.alpha), f"{_B}#3", "all logits up by the same", relative=True),
    _Line("residual_rescaled_relative", _ROWS, _relative_residual, f"{_B}#5", _CORNER, relative=True),
    _Line("gradient", _ROWS, _gradient(), "docs/theory/row_hessian.md", _TWO + "(15 − √33)/24"),
    _Line("gradient_rescaled", _ROWS, _gradient(rescaled=True), f"{_B}#5", _CORNER),
    _Line("hessian", _ROWS, _hessian(), "docs/theory/row_hessian.md", _TWO + "0.6363", directions=("X",)),
    _Line("hessian_rescaled", _ROWS, _hessian(rescaled=True), f"{_B}#5", _CORNER, directions=("X",)),
    _Line("h", _LAYER, _of(Q.h), f"{_B}#4", "A3 or Y of rank one"),
    _Line("residual", _LAYER, _of(Q.residual_one_layer), f"{_B}#4", _HALVES + ", equal rows"),
    _Line("q", _LAYER, _of(Q.q), f"{_B}#4", _MIXED),
    _Line("gradient_X", _LAYER, _gradient("X"), f"{_B}#4", _MIXED),
    _Line("gradient_Y", _LAYER, _gradient("Y"), f"{_B}#4", _MIXED),
    _Line("hessian_X", _LAYER, _hessian(), f"{_B}#4", _MIXED, directions=("X",)),
    _Line("hessian_XY", _LAYER, _mixed, f"{_B}#4", _MIXED, directions=("X", "Y")),
    _Line("hessian", _LAYER, _hessian(), f"{_B}#4", _MIXED, directions=("X", "Y")),
)


def _hyperbolic(name: str, g: Q.Activation) -> tuple[_Line, ...]:
    """The lines of the rescaled family with another entrywise function than exp."""
    where = f"{_B}#5"
    return (
        _Line(f"u_{name}", _ROWS, _of(lambda p: Q.activated(p, g)), where, "the largest logit L in one entry"),
        _Line(f"alpha_{name}", _ROWS, _of(lambda p: jnp.sum(Q.activated(p, g), axis=1)), where, "one logit up"),
        _Line(f"residual_{name}", _ROWS, _of(lambda p: Q.residual_activated(p, g)), where, _CORNER),
        _Line(f"gradient_{name}", _ROWS, _gradient(rescaled=g), where, _CORNER),
        _Line(f"hessian_{name}", _ROWS, _hessian(rescaled=g), where, _CORNER, directions=("X",)),
    )


_TABLE += _hyperbolic("cosh", jnp.cosh) + _hyperbolic("sinh", jnp.sinh)


def _bounds() -> Mapping[str, Bound]:
    table = {}
    for line in _TABLE:
        for family in line.families:
            change = line.change(family)
            for variable in VARIABLES[family]:
                bound = Bound(
                    family, line.quantity, variable, change, line.relative, line.directions, line.status,
                    line.proof, line.attained,
                )  # fmt: skip
                unit = Norms(2, 2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
                if bound.sharp(unit) > 0.0:
                    table[bound.name] = bound
    return table


BOUNDS: Mapping[str, Bound] = _bounds()


def published_shift(n: int, R: float) -> float:
    """`M = n^{1.5} e^{10R²}`, the factor that arXiv 2304.13276 states for both shifts of the targets.

    >>> published_shift(4, 0.0)
    8.0
    """
    return times(n**1.5, exp(10.0 * R * R))
