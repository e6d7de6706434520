"""A whole real attention layer, 12 heads that add up, from what it reads and writes, beside a tuned Adam.

Shows: layer 2 of all-MiniLM-L6-v2 from 300 texts of 128 tokens, 589,824 unknowns, by `attnreg.fit.fit_layer`, in turn
with minibatch Adam: held-out loss over time, and which of the true heads were found, matched by their maps.
Commands: python -m attnreg.data.tools.fetch_minilm   (once: 84 MB)
          python -m experiments.run --config configs/recover_layer.py
No peer: configs/recover_layer.py:alone. Expected: docs/guides/recover.md.
Time: `fit.seconds` for ours (an hour); Adam's tuning is 15 runs of 400 steps, its round 33,600 steps: 3 hours.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.recover_defaults import SMOKE, recover_config
from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {"smoke": SMOKE, "alone": {"peer.rates": ()}}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = recover_config(experiment="recover.layer", rounds=1)
    config.data.update(documents=300, tokens=128)
    config.fit.update(seconds=3600.0, tol=1e-8)
    config.peer.update(tune_steps=400, steps=(1600, 6400, 25600))
    return vary(config, variant, VARIANTS)


def sweep() -> list[dict[str, Any]]:
    """One task per layer of the model."""
    return [{"data.layer": layer} for layer in range(6)]
