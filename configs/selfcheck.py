"""Check of the run machinery: linear regression by Adam, resumable bit for bit.

Command: python -m experiments.run --config configs/selfcheck.py
Expected: error below 1e-3. Time: about 5 s on one CPU core, start-up included.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.tasks import grid
from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"steps": 200},
    "slow": {"pause": 0.03},  # long enough to be killed in
}
EXPECTED = {"full": {"error": (None, 0.001)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    config = ConfigDict(
        dict(
            experiment="selfcheck",
            seed=0,
            precision="float32",
            n=64,
            d=8,
            steps=2000,
            chunk=20,
            learning_rate=0.02,
            pause=0.0,
        )
    )
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    return grid({"learning_rate": (0.005, 0.01, 0.02, 0.05), "seed": range(2 if variant == "smoke" else 25)})
