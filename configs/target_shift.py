"""In-context learning as a change of targets: gradient steps and attention layers as shifts of B, with both bounds.

Command: python -m experiments.run --config configs/target_shift.py
Expected: the identity residual(moved; B) = residual(unmoved; B̃) to a few eps, and measured shift ≤ sharp bound ≤
norm-by-norm bound in every line (the run fails otherwise); on synthetic documents, on the real head that ships with
the package, and, when the MiniLM weights are in the cache, on the tokens of consecutive layers.
Time: about a minute of one CPU core; smoke: a few seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "losses": ("normalized",),
        "sources": ("synthetic",),
        "documents": 1,
        "n": 6,
        "d": 3,
        "columns": 2,
        "steps": (0.01, 1.0),
        "scales": (0.01, 1.0),
        "kinds": ("softmax",),
        "sequence": 2,
    }
}
EXPECTED = {"full": {"broken": (0, 0)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="bounds.target_shift",
        seed=0,
        precision="float64",
        losses=("normalized", "rescaled", "one_layer"),
        sources=("synthetic", "embedded", "minilm"),
        documents=6,
        n=16,
        d=6,
        columns=6,
        radius=1.5,  # spectral norm of a document's token matrix
        real_tokens=32,  # tokens kept of a real document
        steps=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # in units of 1/‖∇‖
        scales=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),  # strength of the layer
        kinds=("softmax", "linear"),
        sequence=24,  # T successive updates
        sequence_step=0.1,
        identity_eps=256.0,  # tolerance of the identity, in eps of the largest term
    )
    return vary(ConfigDict(config), variant, VARIANTS)
