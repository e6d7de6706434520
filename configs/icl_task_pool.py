"""Few tasks or many: linear attention fitted on documents from k tasks, beside dMMSE and ridge regression.

Claim examined: from some number of tasks on a learner answers fresh tasks as ridge regression does, and no longer as
the Bayes answer of its pool does (arXiv 2306.15063: d = 8, 16 points, noise 0.5, transformers). The learner here is
one linear layer, fitted in closed form.
Expected: on fresh tasks the learner's loss falls with the number of tasks: 19.1, 8.8, 3.8 and 3.0 with 1, 4, 16 and
64 of them, where ridge has 0.27; its answers are nearer to ridge's than to dMMSE's from about 11 tasks on. Larger pools
were not measured yet.
Time: about a minute of CPU; smoke: seconds.
Command:  python -m experiments.run --config configs/icl_task_pool.py
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {"task.dimension": 3, "task.length": 6, "tasks": (1, 16), "fit": 256, "final": 64, "seeds": 2}
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="icl.task_pool",
        seed=0,
        precision="float64",
        task=dict(
            kind="linear",
            dimension=8,
            length=16,
            queries=1,
            inputs="gaussian",
            input_scale=1.0,
            weight_scale=1.0,
            noise=0.5,
            distractors=0,
        ),
        tasks=(1, 4, 16, 64, 256, 1024),
        fit=16384,  # documents to fit on
        final=2048,
        seeds=4,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
