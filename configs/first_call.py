"""The first call of a fresh process, from `python` to the answer, beside scipy, optax and jaxopt.

Shows: what a user waits for who fits one head once: imports, compiling, solving. The head is the reduced one that ships
(289 unknowns, 8 texts of 64 tokens), float64, from X = 0 to a gradient of 1e-8 of the start's.
`:full_head` is the same at full width: `fit_attention` on the maps of 4 texts of 512 tokens, float32, beside scipy's
L-BFGS-B on X, 147,456 unknowns, for 100 steps, which do not bring it near.
Command: python -m experiments.run --config configs/first_call.py
Expected: ours and scipy's at a loss of 3.6561; no time is promised. Time: one to two minutes on two CPU cores.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"documents": 1, "rounds": 1, "contenders": ("newton_cg",)},
    "full_head": {"head": "full", "precision": "float32", "documents": 4, "contenders": ("fit_attention", "scipy")},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.first_call",
        seed=0,
        precision="float64",
        contenders=("newton", "newton_cg", "scipy", "optax", "jaxopt"),
        head="reduced",
        documents=8,
        scipy_steps=100,  # at full width
        rounds=3,
        blas_threads=0,  # of OpenBLAS, which NumPy and scipy use; 0: as in a shell, one for each core
    )
    return vary(ConfigDict(config), variant, VARIANTS)
