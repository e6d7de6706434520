"""arXiv 2304.13276 and what others measured: does attention perform a step of gradient descent?"""

from attnreg.bounds import Norms, published_shift
from attnreg.bounds.registry import BOUNDS
from attnreg.icl.linear_limit import Proportions, limiting_loss
from experiments.papers.bounds import SINGLE
from experiments.papers.row import Chapter, Row, show

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
        Row("loss, n = 25", "a trained softmax layer has the loss of one step, d = 20", "configs/icl_softmax_n25.py",
            "equal in a plot", "the step is the limit of one branch only ([theory](theory/icl.md), section 6)",
            "step {softmax_step:3}; linear attention {softmax_linear:4}; "
            "softmax {softmax_away:3} (attends away), {softmax_to:3} (attends to)",
            "true in part: of linear attention, not of softmax"),
        Row("cosine, n = 25", "its sensitivities are those of the step", "configs/icl_softmax_n25.py",
            "near 1 in a plot", "–",
            "linear {softmax_linear_cosine:3}; softmax {softmax_away_cosine:3} and {softmax_to_cosine:3}",
            "true in part"),
        Row("n = 200", "the same with 200 words", "configs/icl_softmax_n200.py", "equal in a plot", "–",
            "no recorded run; the config's docstring has its numbers", "open"),
        Row("loss against d", "at n = 25 and 200", "configs/icl_softmax_width.py", "equal in a plot", "–",
            "n = 25 only; no recorded run", "open"),
        Row("10 repetitions", "all figures with 10 seeds, each past the plateau", "configs/icl_softmax_n25.py",
            "bands in a plot", "–", "8 seeds, 7 past the plateau with linear attention",
            "not built: the paper's figures as one sweep"),
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
            "open"),
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
