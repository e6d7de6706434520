"""One real attention head from what it reads and writes: its weights, down to rounding, beside a tuned Adam.

Shows: layer 2 head 3 of all-MiniLM-L6-v2 from 100 texts of 256 tokens, by `attnreg.fit.fit_layer`, three seeds, in turn
with the minibatch Adam that a user would write (its rate the best of five, its start the best of three, three seeds):
held-out loss over time; then the recovered head against the true one on texts that decided nothing.
Commands: python -m attnreg.data.tools.fetch_minilm   (once: 84 MB)
          python -m experiments.run --config configs/recover_head.py
Other heads: --config.data.layer=1 --config.data.head=8. From its maps, 16 texts, no peer: configs/recover_head.py:maps.
A head of your model: --config.data.source=model --config.data.model=FOLDER --config.data.text=FILE --config.rank=WIDTH
Documents of your own: --config.data.source=arrays --config.data.path=x.npz
A head of SmolLM2: configs/recover_head.py:smollm2 (from its maps), configs/recover_head.py:smollm2_outputs.
No peer, once: configs/recover_head.py:alone. From 4 to 256 texts, maps and outputs: configs/recover_head.py:texts.
All 72 heads: python -m experiments.sweep --config configs/recover_head.py:alone (or :maps; 270 of SmolLM2: :smollm2)
          python -m experiments.recover.survey runs/recover_head-alone-sweep
Expected: docs/guides/recover.md.
Time: at most 3 times `fit.seconds` for ours; Adam's tuning is 15 runs of 1500 steps, each of three rounds 8000 steps.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.recover_defaults import SMOKE, recover_config
from experiments.runner.tasks import grid
from experiments.runner.variants import vary

ALONE: dict[str, Any] = {"rounds": 1, "peer.rates": ()}
SMOLLM2 = ALONE | {
    "rank": 64,
    "data.source": "model",
    "data.model": "smollm2",
    "data.layer": 12,
    "data.head": 4,
    "data.tokens": 128,
    "data.heldout_documents": 8,
    "data.test_documents": 4,
    "fit.seconds": 1200.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE | {"data.head": 1},
    "alone": ALONE,
    "smollm2": SMOLLM2 | {"targets": "maps", "data.documents": 48, "fit.tol": 5e-4},
    "smollm2_outputs": SMOLLM2 | {"targets": "outputs", "data.documents": 96, "fit.tol": 5e-3},
    "maps": ALONE | {"targets": "maps", "data.documents": 16},
    "texts": ALONE | {"texts": (4, 8, 16, 32, 64, 128, 256), "texts_targets": ("maps", "outputs")},
}
EXPECTED = {"full": {"heldout": (None, 1e-08)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = recover_config(targets="outputs")  # or "maps"
    config.data.head = 3
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict[str, Any]]:
    """One task per head of the model."""
    layers, heads = (30, 9) if variant.startswith("smollm2") else (6, 12)
    return grid({"data.layer": range(layers), "data.head": range(heads)})
