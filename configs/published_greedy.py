"""Algorithm 1 of arXiv 2309.07418 as published: sketches of the regularizer, and the weight that it needs.

Shows: ε of TensorSRHT and TensorSparse against their rows; how large W is by the printed constants, by this project's
and by search, where the regularized minimiser then is, and whether 0.4 a step holds; CPU time of each part of a step.
Command: python -m experiments.sweep --config configs/published_greedy.py
Expected: ε = 2.5 d/√m; the printed W asks for w² = 5e11 at (64, 4) and 4e12 at (256, 8), where the minimiser is zero;
ours from zero for 23 and 36; a search finds a rate of 0.4 at 0.07 and 0.08. Below w² = 0.03 the steps diverge, and the
minimiser there leaves 80% of ‖B‖² unexplained. Sketches beat the true Hessian at every size, and the exact
Gram matrix at none. docs/theory/greedy_newton.md has all numbers measured so far.
Time: about 80 CPU seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "sketches": (("sparse", 2),),
        "n": 16,
        "d": 2,
        "rows": (64, 256),
        "seeds": 3,
        "sizes": ((8, 2),),
        "searched": (),
        "rows_per_square": 64,
        "steps": 5,
        "cost_n": (64,),
        "cost_d": 2,
        "cost_ds": (),
        "largest_pass": 64,
        "repeats": 1,
    }
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.published_greedy",
        seed=0,
        precision="float64",
        parts=("embedding", "weights", "costs"),
        # Embedding: s = 1 for the SRHT is not read.
        sketches=(("srht", 1), ("sparse", 1), ("sparse", 8)),
        n=128,
        d=4,
        rows=(256, 1024, 4096, 16384),
        seeds=20,
        heavy=1000.0,
        failure=0.1,  # δ of the published number of rows
        # Weights.
        sizes=((64, 4), (256, 8)),
        noise=0.1,
        rate=0.4,
        searched=(0.4, 0.95),
        weak=1e-5,
        rows_per_square=256,
        draws=8,  # of queries, times n, for the true Hessian
        steps=40,
        # Costs.
        cost_n=(1024, 2048, 4096, 16384, 131072),
        cost_d=8,
        cost_n_fixed=4096,
        cost_ds=(4, 8, 16),
        cost_rows=64,
        cost_blocks=4,
        largest_pass=4096,
        repeats=3,
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict]:
    """One task per part."""
    return [{"parts": (part,)} for part in get_config().parts]
