"""All heads of a model: how they attend, and how well their weights are found from their maps.

Shows: for each head the entropy of its maps, how sharp it is (the standard deviation of its row-centred logits), the
mass on token 0, the loss of uniform maps, the held-out loss of a closed-form start (all heads of a layer in one
compiled batch; rotary heads have none) and of `fit_attention`, and how many directions the texts determine.
Commands: python -m experiments.run --config configs/survey.py             (72 heads of MiniLM; fetch_minilm first)
          python -m experiments.run --config configs/survey.py:smollm2     (270 heads of SmolLM2; fetch_smollm2 first)
          python -m experiments.run --config configs/survey.py:fits        (a fit of every head, at most 25 s each)
A folder: --config.data.model=FOLDER --config.data.text=FILE. A stopped survey goes on with the head that it stopped in.
Expected: docs/guides/models.md. Time: statistics are one forward pass; the starts of MiniLM some minutes.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smollm2": {"data.model": "smollm2"},
    "statistics": {"fit.start_products": 0},
    "fits": {"data.documents": 16, "data.heldout_documents": 4, "data.tokens": 256, "fit.seconds": 25.0},
    "smoke": {"data.model": "random", "data.documents": 4, "data.heldout_documents": 2, "data.tokens": 10},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = ConfigDict(
        dict(
            experiment="survey.heads",
            seed=0,
            precision="float32",
            data=dict(
                model="minilm",  # or "smollm2", a folder, or "random": a Llama of the sizes below
                text="",  # a file of text; empty: the texts that ship
                documents=8,
                heldout_documents=2,
                tokens=128,
                random=dict(layers=2, heads=4, groups=2, head_width=4, vocabulary=50, sharpness=6.0, rotary=False),
            ),
            layers=(),  # empty: all
            fit=dict(
                start_products=60,  # of the closed-form start; 0: no starts
                batch=0,  # heads that start in one compiled batch; 0: all of a layer
                seconds=0.0,  # of one head; 0: no fits
                tol=1e-6,
            ),
        )
    )
    return vary(config, variant, VARIANTS)
