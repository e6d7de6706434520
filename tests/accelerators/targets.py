"""Targets, and the packages with their compilers, which are kept apart from the environment: they would change JAX."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.accelerators import bundles, spills

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "accelerators"


class Target(NamedTuple):
    """A chip: JAX's platform of its objectives, that of its compiler, the topology, and the packages to install."""

    platform: str
    compiler: str
    topology: str
    packages: tuple[str, ...]


TARGETS = {
    "h100": Target(
        "gpu",
        "cuda",
        "",
        (
            "jax-cuda13-plugin=={jaxlib}",
            "jax-cuda13-pjrt=={jaxlib}",
            "nvidia-cuda-nvcc",
            "nvidia-nvvm",
            "nvidia-cuda-crt",
        ),
    ),
    "v5e": Target("tpu", "tpu", "v5e:2x2", ("libtpu",)),
}
# The variable that names the folder of what was dumped.
DUMP = "ATTNREG_DUMP"
# What libtpu asks for when no TPU is there to tell it.
ENVIRONMENT = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}


def folder(name: str) -> Path:
    """Where the compiler of a target lies."""
    return BUILD / TARGETS[name].compiler


def fetch(name: str) -> None:
    """Install the compiler of a target with pip (0.7 GB), once."""
    if folder(name).exists():
        return
    import jaxlib

    wanted = [package.format(jaxlib=jaxlib.__version__) for package in TARGETS[name].packages]
    part = folder(name).with_suffix(".part")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", part, *wanted], check=True)
    part.rename(folder(name))


def environment(name: str, dump: str) -> dict[str, str]:
    """The environment of a process that compiles for a target and leaves what it makes of kernels in a folder."""
    paths = [str(folder(name)), str(HERE.parents[1])]
    own = {
        "h100": {"XLA_FLAGS": spills.OPTIONS.format(dump)},
        "v5e": {"LIBTPU_INIT_ARGS": bundles.OPTIONS.format(dump)},
    }
    return {**os.environ, **ENVIRONMENT, **own[name], "PYTHONPATH": os.pathsep.join(paths), DUMP: dump}


def topology(name: str, devices: int = 1):
    """JAX's description of the target, with at least so many devices."""
    from jax.experimental import topologies

    target = TARGETS[name]
    if target.compiler == "tpu":
        return topologies.get_topology_desc(topology_name=target.topology, platform="tpu")
    text = (HERE / "h100.txtpb").read_text(encoding="utf-8")
    return topologies.get_topology_desc(
        topology_name="", platform="cuda", target_config=text, topology=f"1x1x{devices}"
    )
