"""The solution of a problem as a function of its data: implicit differentiation at a minimum.

At a minimum `∇L(x; data) = 0`. When the data move, the minimum moves by `dx` with `H dx = −∂∇L/∂data · ddata`, H the
Hessian: the linearised optimality condition. How the minimum was found does not matter, nor where the solver started.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from attnreg.problems.checks import ProblemError
from attnreg.solvers.result import Result

# Unknowns up to which H is factorised; beyond, its products are used.
DENSE_UNKNOWNS = 512
# Products of conjugate gradients at most, and the damping of their preconditioner.
MAX_PRODUCTS, DAMPING = 2000, 0.1


def implicit_solution(objective: Any, x: Any) -> Any:
    """`x`, a minimum of the objective, as a differentiable function of the arrays of its problem.

    The value is x itself. Its derivative in the problem's data is that of the minimum, `−H⁻¹ ∂∇L/∂data`; in x it is 0.
    Works forward, reverse and repeatedly, under `jit` and `vmap`. `Solver.run`, and so `solve`, does this by itself.

    Args:
        objective: with `hvp`, `value_grad_hessian` and `preconditioner`, e.g. `AttentionObjective(problem)`, whose
            problem depends on what you differentiate in.
        x: a minimum, shaped like the unknowns: of `run_on_host`, or of a solver of your own.

    Returns:
        x, of its own shape and dtype.

    Precision: that of a solve with H. Directions in which H is no larger than its rounding error, or than what is left
        of the gradient could curve (the softmax gauge, the gauge of factors), stay where they are
        (tests/solvers/test_implicit.py, against differences).
    Cost: nothing unless differentiated; then a dense Hessian and its eigenvalues up to 512 unknowns, beyond that
        conjugate gradients, up to 2000 products; and autodiff of the gradient in the data.
    Raises: ProblemError when differentiated for an objective without curvature.
    Source: derived here; the implicit function theorem.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attnreg.objectives import AttentionObjective
        >>> from attnreg.problems import LinearRegression
        >>> def slope(b):  # of A x = b with A = (1, 1)ᵀ: the mean of b
        ...     return implicit_solution(AttentionObjective(LinearRegression(jnp.ones((2, 1)), b)), jnp.ones((1, 1)))
        >>> jax.jacfwd(slope)(jnp.ones(2)).ravel().tolist()
        [0.5, 0.5]
    """
    return _solution(objective, jax.lax.stop_gradient(x))


def differentiable(objective: Any, solve: Callable[[Any], Result]) -> Result:
    """`solve(objective)` with `params` and `value` differentiable in the objective's arrays, and nothing else."""
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(objective)):
        return solve(objective)
    result = jax.lax.stop_gradient(solve(jax.lax.stop_gradient(objective)))
    params, value = _minimum(objective, (result.params, result.value))
    return result._replace(params=params, value=value)


@jax.custom_jvp
def _solution(objective: Any, x: Any) -> Any:
    del objective
    return x


def _of_solution(primals: Any, tangents: Any) -> tuple[Any, Any]:
    objective, x = primals
    x = _solution(objective, x)  # so that higher derivatives see how x moves
    return x, _moved(objective, x, tangents[0])


@jax.custom_jvp
def _minimum(objective: Any, found: Any) -> Any:
    del objective
    return found


def _of_minimum(primals: Any, tangents: Any) -> tuple[Any, Any]:
    objective, (x, value) = primals
    x, value = _minimum(objective, (x, value))
    # The gradient vanishes there: what x does to the loss is of second order.
    _, change = jax.jvp(lambda o: o.value(x), (objective,), (tangents[0],))
    return (x, value), (_moved(objective, x, tangents[0]), change)


_solution.defjvp(_of_solution)
_minimum.defjvp(_of_minimum)


def _moved(objective: Any, x: Any, of_data: Any) -> Any:
    """`−H⁻¹ ∂∇L/∂data · ddata`, shaped like x."""
    if not hasattr(objective, "linearize"):
        raise ProblemError(
            f"the derivative of a solve needs linearize, which {type(objective).__name__} does not have: differentiate "
            "the solution of an objective with curvature, or pass the data through jax.lax.stop_gradient"
        )
    gradient, force = jax.jvp(lambda o: o.value_and_grad(x)[1], (objective,), (of_data,))
    flat, unravel = ravel_pytree(force)
    # A product of an objective that JAX cannot transpose is that of its gradient's derivative.
    if getattr(objective, "TRANSPOSABLE", False):
        line = objective.linearize(x)

        def product(v):
            return ravel_pytree(line.hvp(unravel(v)))[0]
    else:

        def product(v):
            return ravel_pytree(jax.jvp(lambda z: objective.value_and_grad(z)[1], (x,), (unravel(v),))[1])[0]

    still, at = jax.lax.stop_gradient((objective, x))
    if flat.size <= DENSE_UNKNOWNS:
        inverse = _pseudo_inverse(still.value_grad_hessian(at)[2], ravel_pytree(gradient)[0], ravel_pytree(at)[0])
        solve: Callable[[Any, Any], Any] = lambda _, b: inverse @ b  # noqa: E731
    else:
        solve = _conjugate_gradients(still.preconditioner(at), unravel, flat)
    # Its own derivative and its transpose are JAX's, from the product: any `solve` will do.
    moved = jax.lax.custom_linear_solve(product, flat, solve, symmetric=True)
    return jax.tree.map(jnp.negative, unravel(moved))


def _conjugate_gradients(preconditioner: Any, unravel: Callable[[Any], Any], flat: jax.Array) -> Callable[..., Any]:
    limits = dict(tol=float(jnp.finfo(flat.dtype).eps) ** 0.75, maxiter=min(MAX_PRODUCTS, 10 * flat.size))

    def precondition(v):
        return ravel_pytree(preconditioner.solve(unravel(v), relative=DAMPING))[0]

    return lambda matvec, b: jax.scipy.sparse.linalg.cg(matvec, b, M=precondition, **limits)[0]  # type: ignore[arg-type]


def _pseudo_inverse(H: jax.Array, gradient: jax.Array, x: jax.Array) -> jax.Array:
    """H⁺ (p, p), without the eigenvalues that are rounding, or that the gradient (p,) left at x (p,) could make."""
    values, vectors = jnp.linalg.eigh(H)
    sizes = jnp.abs(values)
    rounding = 8 * H.shape[0] * jnp.finfo(H.dtype).eps * jnp.max(sizes)
    tiny = jnp.finfo(H.dtype).tiny
    curved = 10 * jnp.linalg.norm(jax.lax.stop_gradient(gradient)) / jnp.maximum(jnp.linalg.norm(x), tiny)
    kept = sizes > rounding + jnp.where(jnp.linalg.norm(x) > 0, curved, jnp.zeros_like(curved))
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, jnp.ones_like(values)), jnp.zeros_like(values))
    return (vectors * inverse[None, :]) @ vectors.T
