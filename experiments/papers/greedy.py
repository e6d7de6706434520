"""arXiv 2309.07418: one layer, its curvature, Newton's region and Algorithm 1."""

from attnreg.bounds.layer_region import contraction
from attnreg.bounds.statements import STATEMENTS, Statement
from experiments.papers.row import Chapter, Row, show

N, D = 3, 2  # the sizes at which the lemmas were attacked
FILE = "attnreg/bounds/statements.py"
ERRATA = "tests/oracles/published.py"
FORMS = "to 200 eps of autodiff (`tests/objectives/test_published_forms.py`)"


def _constant(row: Statement) -> Row:
    """A registered lemma: its constants at R = 1."""
    printed, sharp = (show(of(1.0, N, D)) for of in (row.published, row.sharp))
    verdict = row.verdict if row.verdict.startswith(("true", "false", "void")) else f"true in part: {row.verdict}"
    return Row(
        row.name, row.says, FILE, printed, sharp, f"{{{row.name}}} of ours, the largest over R", verdict, (row.name,)
    )


_DERIVATIVES = (
    ("B.1–B.5", "derivatives of u, α, α⁻¹, f, c and of the loss in x and y", "right", "the same", "true",
     ("du", "dalpha", "dalpha_inverse", "df", "dc", "dc_y", "dloss_x", "dloss_y")),
    ("D.1", "second derivative of one entry of the loss", "right", "the same", "true", ("hessian_c",)),
    ("D.3", "kernel of H_xx", "(1−γ)c diag w − (2γ+c)(wfᵀ+fwᵀ) + …", "c(diag w − γ diag f) − (γ+c)(wfᵀ+fwᵀ) + …",
     "false as printed", ("kernel_xx_printed", "kernel_xx")),
    ("G.2", "kernel of H_yy", "ffᵀ", "the same", "true", ("kernel_yy",)),
    ("H.1", "kernel of H_xy", "wfᵀ − γffᵀ + c diag f − cffᵀ", "the same", "true", ("kernel_xy",)),
    ("H.3", "the same kernel again", "wfᵀ − γffᵀ − c diag f + cffᵀ", "the sign of c turned", "false as printed",
     ("kernel_xy_printed",)),
)  # fmt: skip
FORM_ROWS = tuple(
    Row(where, says, ERRATA, published, ours, FORMS, verdict, covers)
    for where, says, published, ours, verdict, covers in _DERIVATIVES
)
LAYER, REGION = "attnreg/bounds/layer_curvature.py", "attnreg/bounds/layer_region.py"
SKETCHES, WEIGHTS = "attnreg/lift/sketches.py", "attnreg/objectives/regularizer.py"
LEMMA_ROWS = (
    Row("A.14", "the regulariser `‖(W⊗I)(A1⊗A2)x‖² + ‖W A3 Y‖²`", "attnreg/problems/one_layer.py",
        "W weighs queries; F.1 has keys", "weights of shape (n, 1), (1, m) and (m, 1): both",
        "products and Hessian against autodiff (`tests/objectives/test_regularizer.py`)",
        "true in part: the two forms differ"),
    Row("C.1", "H_xx ≽ α1, H_yy ≽ α2, ‖H_xy‖ ≤ α3 give a joint bound", LAYER, "min(α1, α2) − α3",
        "λ_min of [[α1, ρ], [ρ, α2]], ρ = ½‖A1⊗A2‖‖A3‖‖C‖ in place of α3",
        "{lemmas, C.1, broken} points below; at least {lemmas, C.1, lost} α3 is lost", "true, and not sharp"),
    Row("G.1 (3)", "min v² ≥ l/σ_min(A3)² gives H_yy ≽ l", LAYER, "l/σ²", "the same, and exact",
        "H_yy is at least {lemmas, G.1 (3), least:4} l", "true"),
    Row("K.1", "(l, M)-good starts: r0 M ≤ 0.1 l", REGION, "0.1 l/M, M of E.1 and I.1",
        "2l/(3M), M polynomial in ‖A3Y‖; or from the start alone (Kantorovich)",
        "least over 8 minimisers: printed {region, published}, ours {region, sharp}, first lost start {region, lost}",
        "true, and far from sharp"),
    Row("K.3", "a step with H̃ within ε0 contracts by 2(ε0 + Mr/(l − Mr))", REGION, "in the 2-norm",
        "(ε + Mr/(2(l − Mr)))/(1 − ε) in the norm of H",
        "a step is {lemmas, K.3, printed} times the printed factor and {lemmas, K.3, sharp} times ours",
        "false in the 2-norm; true in the norm of H"),
    Row("K.4", "ε0 = 0.01 and Mr ≤ 0.1 l give 0.4 a step", "attnreg/solvers/sketched.py", "0.4",
        show(contraction(0.1, 1.0, 1.0, 0.01)) + ", by K.3",
        "{greedy_worst} at most with a sampled true Hessian, median of starts 20% away", "true in the norm of H"),
    Row("J.2, J.3", "TensorSRHT embeds A1 ⊗ A2 with m = O(ε⁻² d² log³ n) rows", SKETCHES, "d²/ε² log³(nd/(εδ)) rows",
        "not proved here", "ε = {sketch, srht} with 4,096 rows at (128, 4), power {sketch, srht, power}",
        "true, and many times the rows that are needed"),
    Row("J.4, J.5", "TensorSparse, m = Ω(ε⁻² d² log n), s = ε⁻¹ log n", SKETCHES, "d²/ε² log n rows",
        "not proved here",
        "ε = {sketch, sparse, s = 8} with 4,096 rows at s = 8, power {sketch, sparse, s = 8, power}", "true"),
    Row("J.6", "ĀᵀSᵀSĀ stands for the regulariser's Gram matrix", WEIGHTS, "a sketch",
        "no sketch is needed: (A1ᵀW²A1) ⊗ (A2ᵀA2) is exact and cheaper",
        "exponents of time in n: SRHT {cost, srht}, "
        "TensorSparse {cost, sparse}", "true, and of no use"),
    Row("Algorithm 1", "Newton with the sketched Hessian of the regulariser, no line search", WEIGHTS,
        "w² ≥ 100 C0 and 100 n, by F.1 and G.1", "`greedy_weight`, `zero_start_weight`: rate (ε + q)/(1 − ε)",
        "at (64, 4) w² is {weight, printed} as printed, {weight, ours} by us and {weight, search} by search; "
        "the minimisers leave {weight, printed, unexplained:4}, "
        "{weight, ours, unexplained:4} and {weight, search, unexplained} of ‖B‖²",
        "true, for a problem whose minimiser is nearly zero"),
    Row("L.1", "log(r0/ε) steps of Õ(T(n, d, n) + T(n, d, d) + d^2ω)", WEIGHTS, "n² d a step",
        "a gradient costs as much as the claim; the curvature 4nd² + d⁶",
        "exponent in n: gradient {cost, gradient}, true Hessian {cost, hessian}", "true"),
    Row("§4", "several layers, one at a time, each with its input as data", "attnreg/fit/layer_fit.py", "a remark",
        "a layer is fitted from what it reads and writes", "[recover](guides/recover.md)",
        "reproduced for one layer at a time"),
)  # fmt: skip

GREEDY = Chapter(
    "arXiv 2309.07418: one layer of attention, and the iterative greedy algorithm",
    (*FORM_ROWS, *LEMMA_ROWS, *(_constant(row) for row in STATEMENTS.values())),
    f"Constants of registered lemmas are at R = 1, n = {N} and d = {D}, for the loss with ½. Their attacks went over "
    "R = 0.25, 1, 2 and 5, at least {statements, points} improved points each. "
    "Derivations: [errata](theory/errata.md), [convexity](theory/one_layer_convexity.md), "
    "[greedy Newton](theory/greedy_newton.md).",
)
