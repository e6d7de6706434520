"""One-layer teacher–student: closed forms against autodiff, Hessian speed, memory.

Shows: joint derivatives in (X, Y) exact to rounding; the exact Hessian many times faster than `jax.hessian`; memory
that does not grow with n·m. (Time to the global minimum: configs/multi_start.py.)
Command: python -m experiments.run --config configs/one_layer.py
         one part of it: --config.parts=hessian
Expected: docs/guides/one_layer.md has the numbers measured and their commands.
Time: derivatives and hessian about a CPU minute; large half an hour, on a busy machine.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "parts": ("derivatives", "temporaries", "large"),
        "derivatives": ("one_layer-8-2",),
        "temporaries": ("one_layer-64-2",),
        "large": (("one_layer", 64, 2),),
    }
}


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.closed_forms",
        seed=0,
        precision="float64",
        parts=("derivatives", "hessian", "temporaries", "large"),
        # The cells of each part (experiments/benchmarks/cells.py).
        derivatives=("one_layer-48-4",),
        hessian=("one_layer-256-8",),
        temporaries=("one_layer-16384-16", "one_layer-131072-16"),
        large=(("one_layer", 131072, 16),),  # really run, for its peak resident memory
        rounds=20,
        seconds=60.0,
    )
    return vary(ConfigDict(config), variant, VARIANTS)
