"""The iterative greedy algorithm (Newton with a sampled Hessian) against its published claims.

Shows: the spectral error ε of the sampled Hessian falls as 1/√samples; inside the convex region ‖x_t − x*‖ contracts by
less than the papers' 0.4 per step once ε is moderate, so the steps needed grow like log(1/ε); CPU time of a sampled
and an exact assembly against n and d, which shows where sampling pays.
Command: python -m experiments.run --config configs/greedy_newton.py
Expected: power of ε in samples −0.5 or steeper (stratified draws gain); docs/theory/greedy_newton.md has the numbers
measured so far.
Time: a few CPU minutes.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = variant == "smoke"
    config = ConfigDict()
    config.experiment = "bounds.greedy_newton"
    config.seed = 0
    config.precision = "float64"
    config.problems = ("matrix",) if smoke else ("matrix", "one_layer")
    config.parts = ("spectral", "contraction", "exponents")
    config.n, config.d = (16, 2) if smoke else (128, 4)
    config.noise = 0.1
    # w² ≥ 0.4808 makes every row Hessian of the normalized loss positive definite (docs/theory, convexity).
    config.weight = 0.8
    config.ridge = 0.1
    config.samples = ConfigDict(
        dict(matrix=(64, 256), one_layer=(16, 64))
        if smoke
        else dict(matrix=(500, 2000, 8000, 32000), one_layer=(128, 512, 2048))
    )
    config.seeds = 3 if smoke else 20
    config.steps = 6 if smoke else 40
    config.start_distance = 0.2
    config.epsilons = (1e-2, 1e-4) if smoke else (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
    config.scaling_n = (16, 32) if smoke else (512, 1024, 2048, 4096)
    config.scaling_d = 2 if smoke else 8
    config.scaling_n_fixed = 16 if smoke else 1024
    config.scaling_ds = (1, 2) if smoke else (4, 8, 16, 24)
    config.scaling_samples = 4 if smoke else 40
    config.repeats = 1 if smoke else 3
    return config


def sweep() -> list[dict]:
    """One task per part."""
    return [{"parts": (part,)} for part in get_config().parts]
