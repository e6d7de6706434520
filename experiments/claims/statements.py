"""Claims about bounds, the papers' statements, learning in context, and runs."""

from experiments.claims.claim import Claim as C
from experiments.claims.claim import Section

# One claim a line, as far as it fits.
# fmt: off

REGION = Section(
    "The weight that makes softmax regression convex: w² − l/σ²",
    (
        C("convex_sharp", "proved enough", "<=4", "threshold_sharp", digits=4),
        C("convex_needed", "needed by the worst instance of a search", "<=0.4808", "threshold_observed", digits=5),
        C("convex_published", "published", "", "threshold_published"),
    ),
    "configs/newton_region.py", quick=True,
)
ROWS = Section(
    "Eigenvalues of a row's Hessian, ‖softmax(s) − b‖², any n",
    (
        C("row_low", "lower bound, proved", ">=-0.4808", digits=4),
        C("row_high", "upper bound, proved", "<=0.6162", digits=4),
    ),
    command="python -m pytest tests/bounds/test_row_hessian_proof.py tests/bounds/test_row_exact.py",
    note="Rational certificates and interval arithmetic; the command passes or fails.",
)
LIPSCHITZ = Section(
    "97 Lipschitz bounds, each attacked with a million improved pairs",
    (
        C("lipschitz_violations", "violations", "<=0", "violations"),
        C("lipschitz_u", "measured over proved: u and α", ">=0.5"),
        C("lipschitz_f", "f and c, at least", ">=0.5", digits=2),
        C("lipschitz_gradient", "normalized gradient, at least", ">=0.5", digits=2),
        C("lipschitz_layer", "one-layer Hessian, at least", "", digits=2),
        C("lipschitz_published", "bounds of the published kind, down to", "", digits=1),
    ),
    "configs/lipschitz.py",
)
SHIFT = Section(
    "A move of weights or data is a move of targets",
    (
        C("shift_identity", "error of the identity, eps", "<=4", "identity_worst_in_eps", digits=1),
        C("shift_broken", "lines where a bound fails", "<=0", "broken"),
        C("shift_sharp", "our bound over what was measured, at best", "", digits=2),
        C("shift_sharp_worst", "at worst", "", digits=2),
        C("shift_published", "the published kind over what was measured, at best", "", digits=2),
    ),
    "configs/target_shift.py", quick=True,
)
GREEDY = Section(
    "The published greedy algorithm: Newton with a sampled Hessian",
    (
        C("greedy_worst", "contraction a step, at most", "<=0.4", digits=2),
        C("greedy_best", "at best", "", digits=1),
    ),
    command="python -m experiments.run --config configs/greedy_newton.py",
    note="Read from `tables/contraction_matrix.csv`. Exact assembly is faster at every size tried.",
)
# Rows of (64, 4), in the order of `experiments.bounds.published_weights.rules`: as printed, ours from zero, a search's.
ALGORITHM = Section(
    "Algorithm 1 as published: Newton with the Hessian of its regulariser alone",
    (
        C("algorithm_printed", "w² as printed asks for it, (64, 4)", "", "weights.1.w²", digits=2),
        C("algorithm_ours", "w² that is proved enough for 0.4 a step from zero", "", "weights.5.w²"),
        C("algorithm_step", "contraction a step with it, at most", "<=0.4", "weights.5.worst step", digits=2),
        C("algorithm_sketched", "with the Hessian sketched by TensorSRHT", "<=0.4", "weights.5.worst sketched step",
          digits=2),
        C("algorithm_lost", "share of ‖B‖² that the minimiser then leaves", "", "weights.5.loss / ‖B‖²"),
        C("algorithm_searched", "least w² with 0.4 at the minimiser, by search", "", "weights.6.w²", digits=2),
        C("algorithm_searched_lost", "share of ‖B‖² that its minimiser leaves", "", "weights.6.loss / ‖B‖²", digits=2),
    ),
    "configs/published_greedy.py", ("--config.parts=('weights',)",),
    note="So the steps contract as claimed, on a problem whose minimiser is nearly zero ([papers](papers.md)).",
)
LINEAR = Section(
    "One trained linear layer is one gradient step",
    (
        C("linear", "loss of the layer", "<=0.2087", "arms.factored.final.loss", seeds="arms.factored.groups.",
          digits=5),
        C("linear_step", "of the best step", "", "arms.factored.references.gd", digits=5),
        C("linear_cosine", "cosine", ">=0.999", "arms.factored.final.gd/cosine", seeds="arms.factored.groups.",
          digits=4),
        C("linear_past", "share of seeds past the plateau", ">=0.875", "arms.factored.past_plateau", digits=3),
    ),
    "configs/icl_linear.py",
)
DEPTH = Section(
    "Looped linear layers are GD++",
    (
        C("depth_2", "loss of two layers", "<=0.1117", "arms.looped_2.final.loss", seeds="arms.looped_2.groups.",
          digits=4),
        C("depth_2_plus", "two steps of GD++", "", "arms.looped_2.references.gd_plus", digits=4),
        C("depth_2_gd", "two steps of gradient descent", "", "arms.looped_2.references.gd"),
        C("depth_2_cosine", "cosine to GD++", ">=0.999", "arms.looped_2.final.gd_plus/cosine",
          seeds="arms.looped_2.groups.", digits=4),
        C("depth_3", "loss of three layers", "<=0.0826", "arms.looped_3.final.loss", seeds="arms.looped_3.groups.",
          digits=3),
        C("depth_3_plus", "three steps of GD++", "", "arms.looped_3.references.gd_plus"),
        C("depth_3_gd", "three steps of gradient descent", "", "arms.looped_3.references.gd"),
        C("depth_3_cosine", "cosine to GD++", ">=0.998", "arms.looped_3.final.gd_plus/cosine",
          seeds="arms.looped_3.groups.", digits=4),
    ),
    "configs/icl_depth.py",
)
SPEED = Section(
    "Training against the usual notebook loop, d = N = 10, batch 2048",
    (
        C("icl_speed", "times less CPU a step", ">=4", "ratio.median", digits=2),
    ),
    "configs/icl_speed.py", ("--config.train_steps=0",), quick=True,
)
SCALING = Section(
    "One fit on 1 to 8 devices and 1 to 4 processes",
    (
        C("scaling", "largest difference, eps", "<=1"),
        C("scaling_other", "bytes that are no derivatives", "<=0", digits=1),
    ),
    command="XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m experiments.run --config configs/scaling.py",
    note="The table of all meshes is in [many_devices](guides/many_devices.md).",
)
TORTURE = Section(
    "Runs killed with `kill -9`",
    (
        C("kills", "kills at random moments", ">=50"),
        C("kills_different", "results that differ in any bit", "<=0"),
        C("kills_sweep", "of 100 tasks of a sweep finished, under 20 kills", ">=100"),
    ),
    command="python -m tests.experiments.torture --config configs/selfcheck.py:slow --kills 50",
    note="Sweeps here and on Slurm, with equal results ([runs](guides/runs.md), [slurm](guides/slurm.md)).",
)

STATEMENTS = (
    REGION, ROWS, LIPSCHITZ, SHIFT, GREEDY, ALGORITHM, LINEAR, DEPTH, SPEED, SCALING, TORTURE,
)
