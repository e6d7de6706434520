"""Generated problems of every loss: matrix or vector unknown, noise, rank, conditioning and logit scale.

Shows: the solvers on a problem whose answer is known; the error in row-centred logits.
Command: python -m experiments.run --config configs/synthetic_regression.py
Other losses: --config.loss=rescaled (cosh_rescaled, sinh_rescaled, linear); vectors: --config.data.kind=vector
Sweep over losses and noise: python -m experiments.sweep --config configs/synthetic_regression.py
Expected: gradient reduced by 1e-8 in about 5 Newton steps; relative logit error about the noise. Time: about 10 s.
"""

from ml_collections import ConfigDict

from configs.fit_defaults import fit_config
from experiments.runner.variants import vary

VARIANTS = {"smoke": {"data.n": 24, "data.d": 3, "compare_seconds": 0.2}}
EXPECTED = {"full": {"gradient_ratio": (None, 1e-08), "steps": (None, 8)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    data = dict(
        source="synthetic",
        kind="matrix",  # or vector: a single softmax (or linear) regression
        n=512,
        d=16,
        documents=1,
        rank=0,  # 0: full; r: X = QKᵀ of rank r
        noise=1e-3,  # of B's root mean square
        logit_scale=1.0,
        condition=1.0,  # of the features
    )
    config = fit_config(data=data, compare=("lbfgs", "gradient_descent"), compare_seconds=5.0)
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    losses = ("normalized", "rescaled", "linear") if variant == "full" else ("normalized", "linear")
    noises = (0.0, 1e-3, 1e-2) if variant == "full" else (0.0,)
    return [{"loss": loss, "data.noise": noise} for loss in losses for noise in noises]
