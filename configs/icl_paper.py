"""The experiment of arXiv 2304.13276 whole: one self-attention layer against one gradient step of softmax regression.

Losses, prediction difference, model difference and model cosine over training, and loss against d: n = m = 25 and 200
words, d = 5, 10, 20 and 40, 10 seeds, 10³ test documents. The config as it stands is n = 25, d = 20; the sweep has all
eight. Published (plots only): softmax attention has the loss of one step, and cosine near 1.
Expected (n = 25, d = 20): best gradient step 0.842, linear attention within 1% of it, softmax attention 0.79; every
seed past the plateau, and all seeds of an arm at one loss.
Time: 1 to 5 minutes of CPU a task of the sweep.
Command:  python -m experiments.sweep --config configs/icl_paper.py
          python -m experiments.icl.paper runs/icl_paper-sweep     # its figures in the paper's order, with bands
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.tasks import grid
from experiments.runner.variants import vary

LENGTHS, DIMENSIONS = (25, 200), (5, 10, 20, 40)
ARMS: dict[str, dict[str, Any]] = {
    kind: dict(series=f"{kind} attention", x=i, model=dict(attention=(kind,)))
    for i, kind in enumerate(("linear", "softmax"))
}
VARIANTS: dict[str, dict[str, Any]] = {
    # The same seeds, begun on the other branch, and from small weights that leave the branch to chance.
    "to": {"model.start": "to", "arms": {"softmax": ARMS["softmax"]}, "analyses": ()},
    "random": {"model.start": "random", "analyses": ()},
    "smoke": SMOKE | {"task.dimension": 5, "task.length": 10, "train.batch": 16},
}
EXPECTED = {"full": {"over_descent": (None, 1.01), "past_plateau": (1.0, None)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = base(
        task=dict(kind="softmax", dimension=20, length=25, queries=25),
        train=dict(steps=800, batch=64),
        model=dict(attention=("linear",), parametrisation="factored"),
        arms=ARMS,
        seeds=10,
        learning_rate=0.005,
        chunk=50,
        evaluation=dict(tune=1000, curve=1000, final=1000, fit=500, block=25),
        analyses=("anatomy",),
    )
    config.task.queries = config.task.get_ref("length")
    config.task.weight_scale = config.task.get_ref("dimension").to_float() ** -0.5
    # A step of 200 words has eight times as many pairs of words, so it has fewer documents.
    config.train.batch = 1600 // config.task.get_ref("length")
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    """Words × dimensions."""
    lengths, dimensions = ((8, 12), (3, 5)) if variant == "smoke" else (LENGTHS, DIMENSIONS)
    return grid({"task.length": lengths, "task.dimension": dimensions})
