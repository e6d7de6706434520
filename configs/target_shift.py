"""In-context learning as a change of targets: gradient steps and attention layers as shifts of B, with both bounds.

Command: python -m experiments.run --config configs/target_shift.py
Expected: the identity residual(moved; B) = residual(unmoved; B̃) to a few eps, and measured shift ≤ sharp bound ≤
norm-by-norm bound in every line (the run fails otherwise); on synthetic documents, on the real head that ships with
the package, and, when the MiniLM weights are in the cache, on the tokens of consecutive layers.
Time: about a minute of one CPU core; smoke: a few seconds.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = {"full": False, "smoke": True}[variant]
    return ConfigDict(
        dict(
            experiment="bounds.target_shift",
            seed=0,
            precision="float64",
            problems=("normalized",) if smoke else ("normalized", "rescaled", "one_layer"),
            sources=("synthetic",) if smoke else ("synthetic", "embedded", "minilm"),
            documents=1 if smoke else 6,
            n=6 if smoke else 16,
            d=3 if smoke else 6,
            columns=2 if smoke else 6,
            radius=1.5,  # spectral norm of a document's token matrix
            real_tokens=32,  # tokens kept of a real document
            steps=(0.01, 1.0) if smoke else (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # in units of 1/‖∇‖
            scales=(0.01, 1.0) if smoke else (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # strength of the layer
            kinds=("softmax",) if smoke else ("softmax", "linear"),
            sequence=2 if smoke else 24,  # T successive updates
            sequence_step=0.1,
            identity_eps=256.0,  # tolerance of the identity, in eps of the largest term
        )
    )
