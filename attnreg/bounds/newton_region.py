"""What Newton's guarantee needs: how convex the regularizer makes the problem, and how far Newton may start.

For `L(X) + ½‖diag(w) A x‖²`, `A = A1 ⊗ A2`, equal weights w: if every row Hessian is at least `−m`, then
`∇² ⪰ l` as soon as `w² ≥ m + l/σ_min(A)²`. If `∇²(x*) ⪰ l` and the Hessian is M-Lipschitz, Newton converges
quadratically from every `‖x − x*‖ < 2l/(3M)` (docs/theory/bounds.md, section 6).
"""

from attnreg.bounds import constants
from attnreg.bounds.domain import Norms
from attnreg.bounds.estimate import times
from attnreg.bounds.norm_by_norm import NormByNorm
from attnreg.bounds.sharp import Sharp
from attnreg.problems.checks import check_choice, check_number


def required_weight(l: float, sigma_min: float, *, kind: str = "sharp") -> float:
    """The least `w²` that guarantees `∇² ⪰ l`, for targets in the simplex.

    Args:
        l: wanted curvature, positive.
        sigma_min: smallest singular value of A (of A1 ⊗ A2: the product).
        kind: "sharp" (m = 0.4808…), "published" (m = 4), or "diagonal" (m = 0.4397…) for `Aᵀ D̃ A` instead
            of the Hessian, D̃ its diagonal part alone.

    Raises:
        ProblemError: for another kind.

    >>> round(required_weight(0.1, 1.0), 4), required_weight(0.1, 1.0, kind="published")
    (0.5808, 4.1)
    """
    depth = {"sharp": -constants.ROW_CURVATURE_MIN, "published": constants.PUBLISHED_CONVEXITY}
    depth["diagonal"] = -constants.DIAGONAL_MIN
    check_choice("kind", kind, depth)
    return depth[kind] + l / sigma_min**2


def approximation_weight(epsilon: float, *, keep: str = "regularizer") -> float:
    """The least w² from which what is kept of `H + w²` is within epsilon of it, for targets in the simplex.

    `(1−ε)(H + w²) ≼ kept ≼ (1+ε)(H + w²)` for every row.

    Args:
        epsilon: positive, below 1.
        keep: "regularizer", `w²` alone: 9 max H, 11 max(−H) at ε = 0.1, exact; or "diagonal", `D̃ + w²`: sufficient,
            and at least `DIAGONAL_MAX/ε` is needed, because a one-hot f has H = 0 and an entry 2 in D̃.

    Raises:
        ProblemError: for an epsilon out of range, or another `keep`.

    >>> round(approximation_weight(0.1), 2), round(approximation_weight(0.1, keep="diagonal"), 2)
    (5.55, 25.29)
    """
    check_number("epsilon", epsilon, above=0, below=1)
    check_choice("keep", keep, ("regularizer", "diagonal"))
    low, high = -constants.ROW_CURVATURE_MIN, constants.ROW_CURVATURE_MAX
    if keep == "regularizer":
        return max((1.0 - epsilon) * high, (1.0 + epsilon) * low) / epsilon
    above = constants.DIAGONAL_MAX + (1.0 + epsilon) * low
    below = (1.0 - epsilon) * high - constants.DIAGONAL_MIN
    return max(above, below) / epsilon


def newton_radius(l: float, lipschitz: float) -> float:
    """`2l/(3M)`: Newton from any closer start contracts, `e' ≤ M e²/(2(l − M e))`.

    >>> newton_radius(3.0, 2.0)
    1.0
    """
    return 2.0 * l / (3.0 * lipschitz)


def hessian_lipschitz(norms: Norms, *, kind: str = "sharp", loss: str = "normalized") -> float:
    """M of an objective in its unknown; normalized, sharp: `1.1428 (‖A1‖ ‖A2‖)³` on the whole space.

    The norm-by-norm constant, and those of the losses "rescaled", "cosh" and "sinh", hold on the ball `norms` only and
    are infinite where their exponential overflows. The quadratic regularizer has a constant Hessian and does not enter.

    Raises:
        ProblemError: for a kind other than "sharp" and "published", or another loss.

    >>> round(hessian_lipschitz(Norms.ball("softmax", 2.0, n1=1, n=5)) / 8.0, 4)
    1.1428
    """
    check_choice("kind", kind, ("sharp", "published"))
    check_choice("loss", loss, ("normalized", "rescaled", "cosh", "sinh"))
    if loss != "normalized":
        chain = Sharp(norms, "X") if kind == "sharp" else NormByNorm(norms, "X")
        return getattr(chain, f"hessian_{loss}").lip
    if kind == "sharp":
        return times(constants.ROW_THIRD, *[norms.a1 * norms.a2] * 3)
    return NormByNorm(norms, "X").hessian.lip
