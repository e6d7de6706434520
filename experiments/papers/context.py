"""arXiv 2304.13276 and what others measured: does attention perform a step of gradient descent?"""

from attnreg.bounds import Norms, published_shift
from attnreg.bounds.registry import BOUNDS
from attnreg.icl.linear_limit import Proportions, limiting_loss
from experiments.papers.bounds import SINGLE
from experiments.papers.row import Chapter, Row, show

PAPER, WIDTHS = "configs/icl_paper.py", (5, 10, 20, 40)


def _losses(n: int) -> str:
    """Loss of the step, and of both kinds of attention with the interval over the seeds, at d = 20."""
    cell, parts = f"paper {n} 20", [f"step {{paper {n} 20, step:4}}"]
    for kind in ("linear", "softmax"):
        name = f"{cell}, {kind}"
        parts.append(f"{kind} attention {{{name}:4}} ({{{name}, low:4}} to {{{name}, high:4}})")
    return "; ".join(parts)


def _cosines(n: int) -> str:
    kinds = ("linear", "softmax")
    cosines, gaps = (
        " and ".join(f"{{paper {n} 20, {kind}, {what}:3}}" for kind in kinds) for what in ("cosine", "difference")
    )
    return f"cosine {cosines} (linear, softmax), prediction difference {gaps}"


def _against(n: int) -> str:
    what = ("step", "linear", "softmax")
    shown = (f"d = {d}: " + " / ".join(f"{{paper {n} {d}, {name}:3}}" for name in what) for d in WIDTHS)
    return f"step / linear / softmax, {'; '.join(shown)}"


CLOSENESS = Chapter(
    "arXiv 2304.13276: learning in context and moving weights, for softmax regression",
    (
        Row("shift by the weights", "one step is a move of targets, ‖b̃ − b‖ ≤ M‖x_{t+1} − x_t‖",
            "attnreg/bounds/target_shift.py", f"M = n^1.5 e^(10R²), {show(published_shift(4, 1.0))} at n = 4, R = 1",
            f"½R, {show(BOUNDS['softmax.f.x'].sharp(Norms.ball('softmax', 1.0, n1=1, n=4)))} at R = 1",
            "{shift, normalized} of ours at most", "true, and far from sharp"),
        Row("shift by the data", "an attention layer's move of A is one too, ‖b̃ − b‖ ≤ M‖A_{t+1} − A_t‖",
            "attnreg/bounds/target_shift.py", f"the same M, {show(published_shift(4, 1.0))}", "½R",
            "identity to {shift_identity:1} eps", "true, and far from sharp"),
        Row("closeness", "so the two are close", "configs/target_shift.py", "in words",
            "both are small moves; not the same move",
            "their cosine has either sign ([target shift](theory/target_shift.md))",
            "false as a statement on directions"),
        Row("loss, n = 25", "a trained softmax layer has the loss of one step, d = 20", PAPER, "equal in a plot",
            "the step is the limit of the worse of two branches ([theory](theory/icl.md), section 6)",
            _losses(25), "true in part: of linear attention; softmax attention is better than every step"),
        Row("cosine, n = 25", "its sensitivities are those of the step", PAPER, "near 1 in a plot", "–", _cosines(25),
            "true in part: of linear attention"),
        Row("n = 200", "the same with 200 words", PAPER, "equal in a plot", "–",
            f"{_losses(200)}; {_cosines(200)}",
            "true in part: of linear attention, to 3%; softmax attention is better than every step"),
        Row("loss against d, n = 25", "the two losses stay together for every d", PAPER, "equal in a plot", "–",
            _against(25), "true in part: of linear attention, to 2%; softmax attention is better, but for d = 40"),
        Row("loss against d, n = 200", "the same with 200 words", PAPER, "equal in a plot", "–", _against(200),
            "true in part: of linear attention, to 6%; softmax attention is better at every d"),
        Row("10 repetitions", "all figures with 10 seeds, each past the plateau", PAPER, "bands in a plot", "–",
            "{paper, cells:1} of 8 cells; share of seeds past the plateau, least of all: {paper, past}; "
            "losses of a cell differ by {paper, spread:1} of their mean at most",
            "reproduced with 10 seeds, all past the plateau"),
        *SINGLE,
    ),
)  # fmt: skip
LIMITS = ", ".join(
    f"{limiting_loss(Proportions(tau, alpha, 0.01, 10.0)):.4f}"
    for alpha in (10.0, 1.0)
    for tau in (0.5, 2.0, 4.0, 10.0)
)
NUMBERS = Chapter(
    "Numbers of others",
    (
        Row("2212.07677", "one trained linear layer is one step, U(−½, ½)^10, 10 pairs", "configs/icl_linear.py",
            "0.2079 against 0.2074, cosine 0.9992", "0.20623 in closed form",
            "{linear:5} against {linear_step:5}, cosine {linear_cosine:4}", "reproduced"),
        Row("2212.07677, depth 2", "two looped layers are GD++", "configs/icl_depth.py", "γ = 0.179", "–",
            "{depth_2:4} against {depth_2_plus:4}, cosine {depth_2_cosine:4}", "reproduced"),
        Row("2405.11751", "linear attention fitted in closed form: its limit in d", "configs/icl_limit.py",
            ".6616, .2127, .1394, .1150 (α = 10); 1.2738, 1.0379, .6964, .5826 (α = 1)", LIMITS,
            "{limit, formula:1} away at most; a simulation with d = {limit, d} is {limit, gap} away", "reproduced",
            (), "equal in all digits (`tests/icl/test_linear_limit.py`); no recorded simulation"),
        Row("2503.12734", "softmax heads 1, 2, 4, 8 against the best step", "configs/icl_heads.py",
            ".406 ± .010, .2395 ± .0056, .247 ± .005, .240 ± .004; step .23978", "the step's loss in closed form",
            "step {heads, step:4}; {heads, 1:3} ({heads, 1, low:3} to {heads, 1, high:3}), "
            "{heads, 2:4} ({heads, 2, low:4} to {heads, 2, high:4}), "
            "{heads, 4:4} ({heads, 4, low:4} to {heads, 4, high:4}), "
            "{heads, 8:4} ({heads, 8, low:4} to {heads, 8, high:4}), 8 seeds",
            "reproduced: each within its interval"),
        Row("2306.15063", "few tasks: from dMMSE to ridge; here linear attention fitted in closed form",
            "configs/icl_task_pool.py", "a crossover in the number of tasks (transformers)", "–",
            "nearer to ridge than to dMMSE from {pool, crossover} tasks on; with {pool, tasks:4} tasks "
            "its loss on fresh ones is "
            "{pool, over ridge:3} times ridge's, that of dMMSE {pool, dmmse over ridge:3} times",
            "true in part: a layer, no transformer"),
        Row("2310.17086", "transformers against Newton's iteration for the inverse", "attnreg/icl/descent.py",
            "layers follow Newton's iterates", "–",
            "looped linear layers {depth_2:4}, {depth_3:3}; GD++ {depth 2, gd_plus:4}, {depth 3, gd_plus:3}; "
            "Newton {depth 2, newton:3}, {depth 3, newton:3}",
            "true in part: looped linear layers follow GD++"),
    ),
)  # fmt: skip
