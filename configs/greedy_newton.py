"""The iterative greedy algorithm (Newton with a sampled Hessian) against its published claims.

Shows: the spectral error ε of the sampled Hessian falls as 1/√samples; inside the convex region ‖x_t − x*‖ contracts by
less than the papers' 0.4 per step once ε is moderate, so the steps needed grow like log(1/ε); CPU time of a sampled
and an exact assembly against n and d, which shows where sampling pays.
Command: python -m experiments.run --config configs/greedy_newton.py
Expected: power of ε in samples −0.5 or steeper (stratified draws gain); docs/theory/greedy_newton.md has the numbers
measured so far.
Time: a few CPU minutes.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "families": ("matrix",),
        "n": 16,
        "d": 2,
        "samples": dict(matrix=(64, 256), one_layer=(16, 64)),
        "seeds": 3,
        "steps": 6,
        "epsilons": (1e-2, 1e-4),
        "scaling_n": (16, 32),
        "scaling_d": 2,
        "scaling_n_fixed": 16,
        "scaling_ds": (1, 2),
        "scaling_samples": 4,
        "repeats": 1,
    }
}
EXPECTED = {"full": {"power": (None, -0.45)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.greedy_newton",
        seed=0,
        precision="float64",
        families=("matrix", "one_layer"),
        parts=("spectral", "contraction", "exponents"),
        n=128,
        d=4,
        noise=0.1,
        # w² ≥ 0.4808 makes every row Hessian of the normalized loss positive definite (docs/theory, convexity).
        weight=0.8,
        ridge=0.1,
        samples=dict(matrix=(500, 2000, 8000, 32000), one_layer=(128, 512, 2048)),
        seeds=20,
        steps=40,
        start_distance=0.2,
        epsilons=(1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
        scaling_n=(512, 1024, 2048, 4096),
        scaling_d=8,
        scaling_n_fixed=1024,
        scaling_ds=(4, 8, 16, 24),
        scaling_samples=40,
        repeats=3,
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict]:
    """One task per part."""
    return [{"parts": (part,)} for part in get_config().parts]
