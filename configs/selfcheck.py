"""Check of the run machinery: linear regression by Adam, resumable bit for bit.

Command: python -m experiments.run --config configs/selfcheck.py
Expected: error below 1e-3. Time: about 5 s on one CPU core, start-up included.
"""

from ml_collections import ConfigDict

from experiments.runner.tasks import grid


def get_config(variant: str = "full") -> ConfigDict:
    steps = {"full": 2000, "slow": 2000, "smoke": 200}[variant]  # "slow" is long enough to be killed in
    return ConfigDict(
        dict(
            experiment="selfcheck",
            seed=0,
            precision="float32",
            n=64,
            d=8,
            steps=steps,
            chunk=20,
            learning_rate=0.02,
            pause=0.03 if variant == "slow" else 0.0,
        )
    )


def sweep(variant: str = "full") -> list[dict]:
    return grid({"learning_rate": (0.005, 0.01, 0.02, 0.05), "seed": range(2 if variant == "smoke" else 25)})
