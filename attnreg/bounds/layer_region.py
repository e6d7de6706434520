"""From where Newton's method on one layer is guaranteed to converge: conditions on a problem and a start.

`good_start` is Lemma K.1 of arXiv 2309.07418, in its printed form or with this project's constants; it needs the
minimiser. `kantorovich` needs the start alone. `contraction` is Lemma K.3. The loss is the library's, `‖C‖² + …`, with
every regularizer of the problem; derivatives are autodiff of the definition. Proofs:
docs/theory/one_layer_convexity.md.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from attnreg.bounds.estimate import exp, times
from attnreg.bounds.layer_curvature import LayerSizes
from attnreg.problems import losses
from attnreg.problems.checks import check_choice, check_number
from attnreg.problems.one_layer import OneLayerRegression, Unknowns

SHARE = 0.1  # K.1: r0 M ≤ 0.1 l


class Region(NamedTuple):
    """What a condition says of one start; numbers on the host.

    Attributes:
        inside: whether Newton is guaranteed to converge from it.
        distance: from the minimiser, in the condition's norm; or of the first Newton step.
        limit: the largest distance that the condition allows, with these l and M.
        curvature: l, the smallest eigenvalue of the Hessian at the minimiser (or at the start).
        lipschitz: M, of the Hessian where the argument needs it.
    """

    inside: bool
    distance: float
    limit: float
    curvature: float
    lipschitz: float


def one_layer_loss(problem: OneLayerRegression, params: Unknowns) -> jax.Array:
    """The whole loss as posed, a scalar: `Σ ‖C‖²` over documents and every regularizer. For autodiff; small sizes.

    params: X (d1, d2), Y (d3, c).
    """
    mask = _mask(problem)
    k, n, m = mask.shape
    weight = jnp.zeros((), problem.dtype) if problem.weight is None else problem.weight
    weight = jnp.broadcast_to(weight, (k, n, m))

    def document(A1, A2, A3, B, mask, weight):
        penalty = losses.logit_regularizer(params.X, A1, A2, weight, mask)
        return penalty + losses.one_layer_attention(params.X, params.Y, A1, A2, A3, B, mask)

    each = jax.vmap(document)(problem.A1, problem.A2, problem.A3, problem.B, mask, weight)
    if problem.value_weight is not None:
        v = jnp.broadcast_to(problem.value_weight[..., 0], problem.A3.shape[:2])
        each = each + jax.vmap(losses.value_regularizer, (None, 0, 0))(params.Y, problem.A3, v)
    ridges = problem.ridge * jnp.sum(params.X**2) + problem.ridge_y * jnp.sum(params.Y**2)
    return jnp.sum(each) + ridges / 2


def _mask(problem: OneLayerRegression) -> jax.Array:
    k, n, m = problem.sizes[:3]
    mask = jnp.ones((1, 1, 1), bool) if problem.mask is None else problem.mask
    if problem.causal:
        mask = mask & jnp.tril(jnp.ones((1, n, m), bool))
    return jnp.broadcast_to(mask, (k, n, m))


@jax.jit
def _derivatives(problem: OneLayerRegression, params: Unknowns) -> tuple[jax.Array, jax.Array]:
    """Gradient (p,) and Hessian (p, p) over `ravel_pytree(params)`."""
    vector, unravel = ravel_pytree(params)
    slope = jax.grad(lambda v: one_layer_loss(problem, unravel(v)))
    return slope(vector), jax.jacfwd(slope)(vector)


@jax.jit
def _residual_rows(problem: OneLayerRegression, params: Unknowns) -> jax.Array:
    """`‖c_j‖` of every query, (k, n)."""

    def row(A1, A2, A3, B, mask):
        return losses.one_layer_attention(params.X, params.Y, A1[None], A2, A3, B[None], mask[None])

    of_rows = jax.vmap(row, (0, None, None, 0, 0))
    return jnp.sqrt(jax.vmap(of_rows)(problem.A1, problem.A2, problem.A3, problem.B, _mask(problem)))


def sizes_near(problem: OneLayerRegression, params: Unknowns, radius: float) -> LayerSizes:
    """Limits that hold wherever Y is within `radius` of params and X is too, in the Frobenius norm.

    Args:
        problem: the data; every document within the same limits. params: X (d1, d2), Y (d3, c). radius: a number.

    Cost: the residuals, and singular values of A1, A2, A3 and A3 Y on the host.
    """
    A1, A2, A3, B = (np.asarray(z, np.float64) for z in (problem.A1, problem.A2, problem.A3, problem.B))
    (k, n, _), c = A1.shape, B.shape[2]
    keys = np.linalg.norm(A2, 2, axis=(1, 2))
    lift = float(np.linalg.norm(np.linalg.norm(A1, 2, axis=(1, 2)) * keys))
    block = float((np.linalg.norm(A1, axis=2).max(axis=1) * keys).max())
    a3 = float(np.linalg.norm(A3, 2, axis=(1, 2)).max())
    h = A3 @ np.asarray(params.Y, np.float64)
    values = float(np.linalg.norm(h, 2, axis=(1, 2)).max()) + a3 * radius
    column = float(np.linalg.norm(h, axis=1).max()) + a3 * radius
    rows = np.asarray(_residual_rows(problem, params), np.float64)
    # A row of C moves by ½‖A_[j]‖‖A3Y‖ per unit of X and by ‖A3‖ per unit of Y, and is never beyond ‖A3Y‖ + ‖b‖.
    moved = radius * (0.5 * block * values + a3)
    row = min(float(rows.max()) + moved, values + float(np.linalg.norm(B, axis=2).max()))
    residual = float(np.linalg.norm(rows)) + radius * (0.5 * lift * values + math.sqrt(k * n) * a3)
    return LayerSizes(k * n, c, block, lift, a3, values, column, row, row, residual)


def hessian_lipschitz(problem: OneLayerRegression, params: Unknowns, radius: float) -> float:
    """M: how fast the joint Hessian of the library's loss changes in (X, Y) within `radius` of params; a host float.

    params: X (d1, d2), Y (d3, c).

    Cost: that of `sizes_near`.
    """
    return 2.0 * sizes_near(problem, params, radius).hessian_lipschitz


def good_start(problem: OneLayerRegression, start: Unknowns, minimiser: Unknowns, *, kind: str = "sharp") -> Region:
    """Whether Newton from `start` is guaranteed to reach `minimiser` (Lemma K.1).

    Args:
        problem: the data, with their regularizers.
        start, minimiser: X (d1, d2), Y (d3, c).
        kind: "published", `r0 M ≤ 0.1 l` with `r = ‖X − X*‖ + ‖Y − Y*‖` and the printed M; or "sharp", `‖e‖ < 2l/(3M)`
            in the Euclidean norm with M of the ball of radius ‖e‖ around the minimiser.

    Raises:
        ProblemError: for another kind.

    Cost: one dense Hessian by autodiff, O(p) passes over n·m arrays, and its eigenvalues.
    """
    check_choice("kind", kind, ("sharp", "published"))
    _, hessian = _derivatives(problem, minimiser)
    l = float(np.linalg.eigvalsh(np.asarray(hessian, np.float64))[0])
    parts = [float(np.linalg.norm(np.asarray(a - b, np.float64))) for a, b in zip(start, minimiser, strict=True)]
    if kind == "published":
        distance, M = sum(parts), printed_lipschitz(problem, start, minimiser)
        limit = SHARE * l / M
        return Region(l > 0.0 and distance <= limit, distance, limit, l, M)
    distance = math.hypot(*parts)
    M = hessian_lipschitz(problem, minimiser, distance)
    limit = 2.0 * l / (3.0 * M) if M else math.inf
    return Region(l > 0.0 and distance < limit, distance, limit, l, M)


def printed_lipschitz(problem: OneLayerRegression, *points: Unknowns) -> float:
    """M of Lemmas E.1 and I.1 as printed, `n^2.5 d (e^{30R²} + e^{20R²})`, doubled for a loss without ½; a host float.

    R is `printed_radius`; infinite where the exponential overflows. One document, n the longer of queries and keys.

    points: X (d1, d2), Y (d3, c) each.
    """
    R, n, d = printed_radius(problem, *points), max(problem.sizes[1:3]), problem.B.shape[2]
    return times(2.0 * n**2.5 * d, exp(30.0 * R * R) + exp(20.0 * R * R))


def printed_radius(problem: OneLayerRegression, *points: Unknowns) -> float:
    """The smallest R of the published domain that holds the data and the points, a scalar.

    It is the largest of `‖A_[j]‖`, `‖A3‖` and `√|b|`, and over the points of `‖X‖_F` and `‖Y_{*,i}‖`.

    points: X (d1, d2), Y (d3, c) each.
    """
    A1, A2, A3, B = (np.asarray(z, np.float64) for z in (problem.A1, problem.A2, problem.A3, problem.B))
    sizes = [math.sqrt(float(np.abs(B).max())), *(float(np.linalg.norm(a, 2)) for a in A3)]
    sizes += [float(np.linalg.norm(q, axis=1).max() * np.linalg.norm(p, 2)) for q, p in zip(A1, A2, strict=True)]
    for z in points:
        sizes += [float(np.linalg.norm(z.X)), float(np.linalg.norm(np.asarray(z.Y), axis=0).max())]
    return max(sizes)


def kantorovich(problem: OneLayerRegression, start: Unknowns) -> Region:
    """Whether Newton from `start` is guaranteed to converge to a stationary point, from the start alone.

    Newton–Kantorovich: with `l = λ_min ∇²L(start) > 0`, δ the length of the first step and M the Hessian's Lipschitz
    constant within 2δ, `M δ ≤ l/2` suffices; the limit is within 2δ. `distance` is δ and `limit` is l/(2M).

    Args:
        problem: the data. start: X (d1, d2), Y (d3, c).

    Cost: one dense Hessian by autodiff, O(p) passes over n·m arrays, and its eigenvalues.
    """
    gradient, hessian = (np.asarray(z, np.float64) for z in _derivatives(problem, start))
    l = float(np.linalg.eigvalsh(hessian)[0])
    if not l > 0.0:
        return Region(False, math.inf, 0.0, l, math.inf)
    step = float(np.linalg.norm(np.linalg.solve(hessian, gradient)))
    M = hessian_lipschitz(problem, start, 2.0 * step)
    return Region(step <= l / (2.0 * M), step, l / (2.0 * M), l, M)


def contraction(distance: float, l: float, lipschitz: float, epsilon: float, *, kind: str = "sharp") -> float:
    """The factor by which one step with a sampled Hessian shrinks the distance from the minimiser (Lemma K.3).

    Args:
        distance: before the step. l, lipschitz: curvature at the minimiser, and M.
        epsilon: `(1−ε)H ≼ H̃ ≼ (1+ε)H` at the point, below 1.
        kind: "published", `2(ε + M r/(l − M r))`, stated for the 2-norm, where it is false; or "sharp",
            `(ε + M r/(2(l − M r)))/(1 − ε)`, true in the norm of the Hessian at the point.

    Raises:
        ProblemError: for another kind, or an epsilon that is not in [0, 1).

    >>> round(contraction(0.1, 1.0, 1.0, 0.01, kind="published"), 4), round(contraction(0.1, 1.0, 1.0, 0.01), 4)
    (0.2422, 0.0662)
    """
    check_choice("kind", kind, ("sharp", "published"))
    check_number("epsilon", epsilon, at_least=0, below=1)
    left = l - lipschitz * distance
    if left <= 0.0:
        return math.inf
    moved = lipschitz * distance / left
    return 2.0 * (epsilon + moved) if kind == "published" else (epsilon + moved / 2.0) / (1.0 - epsilon)
