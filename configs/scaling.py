"""One fit on any mesh of devices and processes: the same numbers, and only the derivatives travel.

Command: XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m experiments.run --config configs/scaling.py
Expected: values below 1e-20; all-reduced bytes equal to the ideal, no other collective. Time: about 10 s on one core.
More devices and processes, and their table: docs/guides/many_devices.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.runner.variants import vary

VARIANTS: dict[str, dict[str, Any]] = {"smoke": {"n": 16, "d": 3, "steps": 4}}
EXPECTED = {"full": {"values": (None, 1e-20)}}  # from, to


def get_config(variant: str = "full") -> ConfigDict:
    """The full experiment, or a variant of it."""
    config = dict(
        experiment="benchmarks.scaling",
        seed=0,
        precision="float64",
        documents=8,
        n=128,
        d=8,
        starts=4,
        steps=12,
        damping=1e-3,
        mesh=dict(starts=1, over="documents"),  # devices on the starts axis; the rest split the data
    )
    return vary(ConfigDict(config), variant, VARIANTS)
