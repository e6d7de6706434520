"""Test programs in a process of their own, which has as many devices as it is given."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def with_devices(count: int) -> str:
    """The XLA flags of this process and so many virtual devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def reported(devices: int, *module: str, seconds: float = 600) -> Any:
    """What `python -m module …` finds on so many virtual devices: the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": with_devices(devices), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
