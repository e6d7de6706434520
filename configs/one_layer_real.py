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

from ml_collections import ConfigDict


def get_config(variant: str = "full") -> ConfigDict:
    smoke = variant == "smoke"
    config = ConfigDict()
    config.experiment = "one_layer.real_heads"
    config.seed = 0
    config.precision = "float64"
    config.source = "embedded" if variant in ("smoke", "embedded") else "minilm"
    config.target = "layer" if variant == "layer" else "head"
    config.layer, config.head = 2, 3
    config.heads = 12 if variant == "layer" else 1
    config.sweeps = 2
    config.tokens = 256
    config.components = 32
    config.train = ConfigDict(dict(docs=8))
    config.heldout = ConfigDict(dict(docs_heldout=4, card=4))
    config.ridges = (1e-2,) if smoke else (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
    config.near_truth = 0.0  # > 0: start at the true X with noise of this relative size in its factors
    config.tol = 1e-4
    config.max_steps = 2 if smoke else 30
    config.max_cg = 5 if smoke else 60
    config.total_seconds = 600.0
    return config


def sweep() -> list[dict]:
    """One task per head of the layer."""
    return [{"head": head} for head in range(12)]
