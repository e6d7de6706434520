"""Every bound of docs/theory/bounds.md against the largest ratio that gradient ascent can find, over n, d and R.

Command: python -m experiments.run --config configs/lipschitz.py
Expected: 97 bounds, no violation in at least a million improved pairs each; tightness of the sharp column at least 0.5
for u, α, f, c and the normalized gradient, of the norm-by-norm column down to 1e-7. The run fails and prints the
pair if any pair beats a bound. Time: 15 minutes of CPU (half of it compilation); smoke: a few seconds.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    shapes = dict(softmax=(1, 4, 2, 1), attention=(2, 3, 2, 1), one_layer=(2, 3, 2, 2))  # n1, n, d, m
    return ConfigDict(
        dict(
            experiment="bounds.lipschitz",
            seed=0,
            precision="float64",
            # "" measures every bound; otherwise those whose name contains one of these words, comma separated.
            only="softmax.f.x" if smoke else "",
            radii=(0.5, 1.0, 1.5, 2.0),
            shapes=shapes,
            starts=64 if smoke else 4096,
            steps=20 if smoke else 75,
            improved_pairs=0 if smoke else 1_000_000,
            max_rounds=1 if smoke else 30,
            tolerance=1e-8,  # rounding of a ratio at the closest separation, relative to the bound
            # How truth and bounds scale with n, at the largest radius but one.
            scaling=("softmax.f.x",) if smoke else ("softmax.f.x", "softmax.gradient.x", "softmax.hessian.x"),
            scaling_n=(4,) if smoke else (2, 4, 8, 16, 32),
            scaling_starts=64 if smoke else 512,
            scaling_steps=20 if smoke else 150,
            row_orders=1 if smoke else 3,  # derivatives of the row loss, up to this order
            row_n=(3,) if smoke else (2, 3, 5, 8),
            row_starts=64 if smoke else 500,
            row_steps=20 if smoke else 400,
            row_resolution=8 if smoke else 60,
        )
    )
