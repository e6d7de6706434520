"""What Newton's guarantee needs: how convex the regularizer makes the problem, and how far Newton may start.

For `L(X) + ½‖diag(w) A x‖²`, `A = A1 ⊗ A2`, equal weights w: if every row Hessian is at least `−m`, then
`∇² ⪰ l` as soon as `w² ≥ m + l/σ_min(A)²`. If `∇²(x*) ⪰ l` and the Hessian is M-Lipschitz, Newton converges
quadratically from every `‖x − x*‖ < 2l/(3M)` (docs/theory/bounds.md, section 6).
"""

from attnreg.bounds import constants
from attnreg.bounds.domain import Norms
from attnreg.bounds.estimate import times
from attnreg.bounds.norm_by_norm import NormByNorm
from attnreg.problems.checks import check_choice


def required_weight(l: float, sigma_min: float, *, kind: str = "sharp") -> float:
    """The least `w²` that guarantees `∇² ⪰ l`, for targets in the simplex.

    Args:
        l: wanted curvature, positive.
        sigma_min: smallest singular value of A (of A1 ⊗ A2: the product).
        kind: "sharp" (m = 0.4808…) or "published" (m = 4).

    Raises:
        ProblemError: for another kind.

    >>> round(required_weight(0.1, 1.0), 4), required_weight(0.1, 1.0, kind="published")
    (0.5808, 4.1)
    """
    depth = {"sharp": -constants.ROW_CURVATURE_MIN, "published": constants.PUBLISHED_CONVEXITY}
    check_choice("kind", kind, depth)
    return depth[kind] + l / sigma_min**2


def newton_radius(l: float, lipschitz: float) -> float:
    """`2l/(3M)`: Newton from any closer start contracts, `e' ≤ M e²/(2(l − M e))`.

    >>> newton_radius(3.0, 2.0)
    1.0
    """
    return 2.0 * l / (3.0 * lipschitz)


def hessian_lipschitz(norms: Norms, *, kind: str = "sharp") -> float:
    """M of the normalized objective in its unknown: `1.1428 (‖A1‖ ‖A2‖)³` on the whole space, or norm by norm.

    The norm-by-norm constant holds on the ball `norms` only and is infinite where its exponential overflows. The
    quadratic regularizer has a constant Hessian and does not enter.

    Raises:
        ProblemError: for a kind other than "sharp" and "published".

    >>> round(hessian_lipschitz(Norms.ball("softmax", 2.0, n1=1, n=5)) / 8.0, 4)
    1.1428
    """
    check_choice("kind", kind, ("sharp", "published"))
    if kind == "sharp":
        return times(constants.ROW_THIRD, *[norms.a1 * norms.a2] * 3)
    return NormByNorm(norms, "X").hessian.lip
