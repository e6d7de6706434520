"""The experiment of arXiv 2304.13276 whole: one self-attention layer against one gradient step of softmax regression.

Losses, prediction difference, model difference and model cosine over training, and loss against d: n = m = 25 and 200
words, d = 5, 10, 20 and 40, 10 seeds, 10³ test documents. The config as it stands is n = 25, d = 20; the sweep has all
eight. Published (plots only): softmax attention has the loss of one step, and cosine near 1.
Expected (n = 25, d = 20): zero 1.222, best gradient step 0.7956; linear attention 0.8017, cosine 0.9935; softmax
attention 0.7501, cosine 0.9425; all 10 seeds of an arm within 1%.
Time: 1 to 5 minutes of CPU a task of the sweep.
Command:  python -m experiments.sweep --config configs/icl_paper.py
          python -m experiments.icl.paper runs/icl_paper-sweep     # its figures in the paper's order, with bands
"""

from typing import Any

from ml_collections import ConfigDict

from configs.icl_defaults import SMOKE, base
from experiments.runner.tasks import grid
from experiments.runner.variants import vary

LENGTHS, DIMENSIONS = {25: 64, 200: 16}, (5, 10, 20, 40)  # words: documents a step, and d
ARMS: dict[str, dict[str, Any]] = {
    kind: dict(series=f"{kind} attention", x=i, model=dict(attention=(kind,)))
    for i, kind in enumerate(("linear", "softmax"))
}
VARIANTS: dict[str, dict[str, Any]] = {
    # The same seeds, begun on the other branch, and from small weights that leave the branch to chance.
    "to": {"model.start": "to", "arms": {"softmax": ARMS["softmax"]}},
    "random": {"model.start": "random"},
    # Why softmax attention leaves the step: kernels between the two, and the parts of its slopes.
    "anatomy": {"arms": {"softmax": ARMS["softmax"]}, "analyses": ("anatomy",)},
    "smoke": SMOKE | {"task.dimension": 5, "task.length": 10, "train.batch": 16, "analyses": ("anatomy",)},
}
EXPECTED = {"full": {"over_descent": (None, 1.02), "past_plateau": (1.0, None)}}  # from, to


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
    )
    config.task.queries = config.task.get_ref("length")
    config.task.weight_scale = config.task.get_ref("dimension").to_float() ** -0.5
    return vary(config, variant, VARIANTS)


def sweep(variant: str = "full") -> list[dict]:
    """Words × dimensions."""
    lengths, dimensions = ({8: 16, 12: 16}, (3, 5)) if variant == "smoke" else (LENGTHS, DIMENSIONS)
    cells = grid({"task.length": lengths, "task.dimension": dimensions})
    return [cell | {"train.batch": lengths[cell["task.length"]]} for cell in cells]
