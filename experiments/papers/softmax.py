"""arXiv 2304.10411, 2305.00660 and 2307.02419: softmax and attention regression, normalized and rescaled."""

from attnreg.bounds import Norms
from attnreg.bounds.hyperbolic import DEPTH
from attnreg.bounds.newton_region import approximation_weight, hessian_lipschitz, required_weight
from experiments.papers.bounds import bound_rows
from experiments.papers.row import Chapter, Row, show

REGION, ORACLE = "attnreg/bounds/newton_region.py", "tests/oracles/published.py"
FORMS = "to 200 eps of autodiff (`tests/objectives/test_published_forms.py`)"
UNIT = Norms.ball("softmax", 1.0, n1=1, n=4)


def _depth(kind: str) -> str:
    return show(required_weight(0.0, 1.0, kind=kind), 4)


SOFTMAX = Chapter(
    "arXiv 2304.10411: softmax regression, Newton's method on it",
    (
        Row("gradient", "∇‖f − b‖² = 2Aᵀp, p = (diag f − ffᵀ)c", ORACLE, "right in the form of ours", "the same",
            FORMS, "true", ("normalized_gradient",)),
        Row("Hessian", "∇²‖f − b‖² = Aᵀ(diagonal + rank two)A", ORACLE, "right in the form of ours", "the same", FORMS,
            "true", ("normalized_hessian",)),
        Row("convexity", "w² ≥ m + l/σ_min(A)² gives ∇² ≽ l", REGION, f"m = {_depth('published')}",
            f"m = {_depth('sharp')}, exact", "the worst of a search needs {newton, threshold:5}",
            "true, and not sharp"),
        Row("10%", "from which w² on the regulariser alone is within 10% of H + w²", REGION, "100",
            f"{show(approximation_weight(0.1), 3)}, exact", "`tests/objectives/test_diagonal.py`",
            "true, and not sharp"),
        Row("diagonal part", "AᵀD̃A in place of the Hessian: convex from m on", "attnreg/objectives/diagonal.py",
            f"m = {_depth('published')}", f"m = {_depth('diagonal')}, attained",
            "both ends reached (`tests/objectives/test_diagonal.py`)", "true, and not sharp"),
        Row("diagonal part, 10%", "from which w² on D̃ + w² is within 10% of H + w²", REGION, "100",
            f"{show(approximation_weight(0.1, keep='diagonal'), 3)}; 20 is needed, more than without D̃",
            "`tests/objectives/test_diagonal.py`", "true, and worse than leaving D̃ out"),
        Row("sparse A", "a step costs nnz(A) + d^ω", "attnreg/objectives/stored.py",
            "nnz(A), by sampling rows of AᵀD̃A",
            "all of AᵀD̃A from stored entries: s(s + 1)/2 products for a row of s, then d³/3",
            "flops counted (`tests/objectives/test_stored.py`); less CPU than a dense A up to s = d/5 at d = 64, "
            "and up to d/10 at d = 1,024 ([benchmarks](guides/benchmarks.md))",
            "true for rows of a few entries; exact assembly costs s times nnz(A)"),
        Row("Hessian Lipschitz", "‖∇²L(x) − ∇²L(y)‖ ≤ M‖x − y‖ for ‖A‖, ‖x‖ ≤ R", REGION,
            f"{show(hessian_lipschitz(UNIT, kind='published'))} at R = 1 (norm by norm)",
            f"1.1428 R³, {show(hessian_lipschitz(UNIT), 3)} at R = 1", "{softmax.hessian.x} of ours",
            "true, and far from sharp"),
        Row("Newton's region", "starts from which Newton converges", REGION, "0.1 l/M", "2l/(3M)",
            "ours is up to {newton, over published:1} times as far; every start inside converged",
            "true, and far from sharp"),
        Row("sampled steps", "log(r0/ε) steps, each a contraction by 0.4", "attnreg/objectives/sampled.py", "0.4",
            "ε/(1 − ε) near the minimum", "at most {greedy_worst}, at best {greedy_best:1}",
            "true; exact assembly is faster at every size tried"),
    ),
)  # fmt: skip
RESCALED = Chapter(
    "arXiv 2305.00660: rescaled softmax regression, exp, cosh and sinh",
    (
        Row("gradient", "∇‖u − αb‖²", ORACLE, "right in the form of ours", "the same", FORMS, "true",
            ("rescaled_gradient",)),
        Row("Hessian", "∇²‖u − αb‖²", ORACLE, "right in the form of ours", "the same", FORMS, "true",
            ("rescaled_hessian",)),
        Row("convexity", "least eigenvalue of a row's Hessian, b in the simplex", "attnreg/bounds/hyperbolic.py",
            "e^O(R²)", f"−{show(DEPTH['cosh'], 3)} α² for exp and cosh, −{show(DEPTH['sinh'], 3)} (Σ|sinh|)² for sinh",
            "`tests/bounds/test_hyperbolic.py`", "true, and not sharp"),
        *bound_rows("softmax", "rescaled", "cosh", "sinh"),
    ),
)  # fmt: skip
ATTENTION = Chapter(
    "arXiv 2307.02419: from one softmax regression to attention, by the tensor trick",
    (
        Row("tensor trick", "vec(A1 X A2ᵀ) = (A1 ⊗ A2) vec X, block j is a_jᵀ ⊗ A2", "attnreg/lift/tensor_trick.py",
            "an identity", "the same; nothing n² × d² is formed", "`tests/lift/test_tensor_trick.py`", "true"),
        Row("gradient, Hessian", "of normalized and rescaled attention regression, by rows",
            "attnreg/objectives/attention.py", "sums over blocks A_[j]", "A1ᵀΓA2 and Σ a_j a_jᵀ ⊗ A2ᵀH_jA2",
            "{difference_closed} eps of 80-bit arithmetic, autodiff {difference_autodiff}", "true"),
        Row("shift", "moving X or the data is a move of B, of at most M‖ΔX‖", "attnreg/bounds/target_shift.py",
            "M = e^O(R² + log n)", "½‖A1‖‖A2‖‖ΔX‖ (normalized); √2(e^‖ΔS‖∞ − 1) a row (rescaled)",
            "{shift, normalized} and {shift, rescaled} of ours at most, one layer {shift, one_layer}",
            "true, and far from sharp"),
        *bound_rows("attention"),
    ),
)  # fmt: skip
