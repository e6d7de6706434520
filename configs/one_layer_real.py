"""The output of a real attention head, or of a whole layer, fitted as a one-layer problem; ridge chosen on held-out
text.

Shows: layer 2 head 3 of all-MiniLM-L6-v2 on 8 texts, 32 principal components and a constant (`--config.components=0`
for all 384 columns; `:layer` fits the whole layer's output with 12 heads). Half of the held-out texts choose the
ridge, the other half are the test. Needs the fetched model (docs/guides/real_heads.md); `:embedded` uses the shipped
head instead.
Command: python -m experiments.run --config configs/one_layer_real.py
Expected: docs/guides/one_layer.md has the numbers measured and their commands.
Time: at most `total_seconds`.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"source": "embedded", "ridges": (1e-2,), "max_steps": 2, "max_cg": 5},
    "embedded": {"source": "embedded"},
    "layer": {"target": "layer", "heads": 12},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="one_layer.real_heads",
        seed=0,
        precision="float64",
        source="minilm",
        target="head",
        layer=2,
        head=3,
        heads=1,
        sweeps=2,
        tokens=256,
        components=32,
        train=dict(docs=8),
        heldout=dict(docs_heldout=4, card=4),
        ridges=(10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
        near_truth=0.0,  # > 0: start at the true X with noise of this relative size in its factors
        tol=1e-4,
        max_steps=30,
        max_cg=60,
        total_seconds=600.0,
    )
    return vary(ConfigDict(config), variant, VARIANTS)


def sweep() -> list[dict[str, Any]]:
    """One task per head of the layer."""
    return [{"head": head} for head in range(12)]
