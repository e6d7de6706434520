"""An objective with a pull towards a known point: what keeps a fit of few data near a good guess."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from attnreg.lift.kronecker import Kronecker, Preconditioner
from attnreg.objectives.base import Cache, Costs, Linearization, SecondOrderObjective, check_like, compiled
from attnreg.problems.checks import ProblemError, pytree_dataclass, replaced


@pytree_dataclass()
class Pulled(SecondOrderObjective):
    """`objective(x) + ½ weight ‖x − centre‖²`.

    Args:
        objective: any `SecondOrderObjective`.
        centre: unknowns of the objective, shaped like them, of their dtype.
        weight: a scalar of at least 0.

    Precision: that of the objective (tests/objectives/test_pulled.py).
    Cost: that of the objective; the pull adds one pass over the unknowns.
    Raises: ProblemError for a centre that is not shaped like the unknowns.
    Source: the definition above.

    Example:
        >>> import jax.numpy as jnp
        >>> from attnreg.objectives.factored import FactoredObjective
        >>> from attnreg.problems.attention import AttentionRegression
        >>> fit = FactoredObjective(AttentionRegression(jnp.eye(2), jnp.eye(2), jnp.full((2, 2), 0.5)), rank=1)
        >>> float(Pulled(fit, fit.zeros(), jnp.array(3.0, fit.problem.dtype)).value(fit.zeros()))
        0.0
    """

    CACHES: ClassVar[tuple[str, ...]] = ("auto", "none", "entries")

    objective: Any
    centre: Any
    weight: jax.Array

    def __post_init__(self) -> None:
        if not isinstance(self.objective, SecondOrderObjective):
            raise ProblemError(f"objective is a {type(self.objective).__name__}; it must be a SecondOrderObjective")
        self.objective.check(self.centre, "centre")
        dtype = jax.tree.leaves(self.centre)[0].dtype
        object.__setattr__(self, "weight", jnp.asarray(self.weight, dtype))
        check_like(self.weight, jax.ShapeDtypeStruct((), dtype), "weight")

    def zeros(self) -> Any:
        """The unknowns, all zero."""
        return self.objective.zeros()

    def start(self) -> Any:
        """The centre."""
        return self.centre

    def costs(self) -> Costs | None:
        """Those of the objective."""
        return self.objective.costs()

    def _away(self, x: Any) -> Any:
        return jax.tree.map(jnp.subtract, x, self.centre)

    def _pull(self, x: Any) -> jax.Array:
        return self.weight / 2 * sum(jnp.sum(part * part) for part in jax.tree.leaves(self._away(x)))

    def _with_pull(self, x: Any, gradient: Any) -> Any:
        return jax.tree.map(lambda a, b: a + self.weight * b, gradient, self._away(x))

    @compiled()
    def value(self, x: Any) -> jax.Array:
        """The loss, a scalar."""
        return self.objective.value(x) + self._pull(x)

    @compiled()
    def value_and_grad(self, x: Any) -> tuple[jax.Array, Any]:
        """The loss and its gradient."""
        value, gradient = self.objective.value_and_grad(x)
        return value + self._pull(x), self._with_pull(x, gradient)

    @compiled("gauss_newton", "cache")
    def linearize(self, x: Any, *, gauss_newton: bool = False, cache: Cache = "auto") -> "PulledLinearization":
        """Value, gradient and products at x."""
        line = self.objective.linearize(x, gauss_newton=gauss_newton, cache=cache)
        gradient = self._with_pull(x, line.gradient)
        return PulledLinearization(line.value + self._pull(x), gradient, line, self.weight)

    @compiled("gauss_newton")
    def value_grad_hessian(self, x: Any, *, gauss_newton: bool = False) -> tuple[jax.Array, Any, jax.Array]:
        """Value, gradient and the dense Hessian, for small sizes."""
        value, gradient, H = self.objective.value_grad_hessian(x, gauss_newton=gauss_newton)
        pull = self.weight * jnp.eye(H.shape[0], dtype=H.dtype)
        return value + self._pull(x), self._with_pull(x, gradient), H + pull

    @compiled()
    def preconditioner(self, x: Any) -> Preconditioner:
        """That of the objective, each `Kronecker` in it shifted by the weight."""

        def shifted(part: Kronecker) -> Kronecker:
            return replaced(part, shift=part.shift + self.weight)

        return jax.tree.map(shifted, self.objective.preconditioner(x), is_leaf=lambda part: isinstance(part, Kronecker))


@pytree_dataclass()
class PulledLinearization(Linearization):
    """A `Pulled` at one point."""

    value: jax.Array
    gradient: Any
    line: Any
    weight: jax.Array

    @compiled()
    def hvp(self, v: Any) -> Any:
        """That of the objective, plus `weight · v`."""
        return jax.tree.map(lambda a, b: a + self.weight * b, self.line.hvp(v), v)
