"""Which accelerators a process may use: those of its task in a cluster job, or of its place in a sweep."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from experiments.runner.config import UsageError

# What the driver and its compiled programs need beside JAX's own share of a GPU's memory.
MEMORY = 0.9
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin", "libtpu")
# A TPU chip may be two devices.
_ASK = """
import jax, json
places = {getattr(d, "coords", None) and tuple(d.coords) or d.id for d in jax.local_devices()}
print(json.dumps([jax.default_backend(), len(places)]))
"""
_LISTS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def visible(environ: Mapping[str, str]) -> list[str] | None:
    """The GPUs that a process was given, as its environment names them; None where nothing was said."""
    for name in _LISTS:
        if name in environ:
            found = environ[name].split(",")
            return [part.strip() for part in found if part.strip() not in ("", "-1", "NoDevFiles")]
    return None


def local_device_ids(environ: Mapping[str, str]) -> list[int]:
    """Which of the visible GPUs this process of a Slurm or MPI job takes; [] for all of them.

    JAX by itself takes the GPU whose number is the task's number on its node, whatever was given to the task. Here one
    task on a node has all of them; tasks that were bound (`--gpus-per-task`, `--gpu-bind`, a list of one) have what
    they see; tasks that see the same GPUs take equal parts.

    Raises: UsageError where such a part is not whole.
    """
    number, tasks = _place(environ)
    seen = visible(environ)
    if seen is None or tasks == 1 or len(seen) <= 1 or _bound(environ, len(seen)):
        return []
    if len(seen) % tasks:
        raise UsageError(
            f"{tasks} tasks on this node see the same {len(seen)} GPUs and cannot share them equally; use "
            f"--ntasks-per-node=1 (one process with all of them), --ntasks-per-node={len(seen)}, or --gpus-per-task=1"
        )
    share = len(seen) // tasks
    return list(range(number * share, (number + 1) * share))


def _place(environ: Mapping[str, str]) -> tuple[int, int]:
    """This task's number on its node, and how many tasks the node has."""
    if "SLURM_LOCALID" in environ:
        node = int(environ.get("SLURM_NODEID", "0"))
        counts = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "1"))
        return int(environ["SLURM_LOCALID"]), counts[min(node, len(counts) - 1)]
    rank, size = (environ.get(f"OMPI_COMM_WORLD_LOCAL_{name}") for name in ("RANK", "SIZE"))
    return (int(rank), int(size)) if rank and size else (0, 1)


def _tasks_per_node(text: str) -> list[int]:
    """`2(x3),1` of Slurm as [2, 2, 2, 1].

    >>> _tasks_per_node("2(x3),1")
    [2, 2, 2, 1]
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))] or [1]


def _bound(environ: Mapping[str, str], seen: int) -> bool:
    """Whether Slurm gave each task GPUs of its own: then a task sees no others."""
    if "SLURM_GPUS_PER_TASK" in environ or "gpu" in environ.get("SLURM_TRES_PER_TASK", ""):
        return True
    if environ.get("SLURM_GPU_BIND", "none") not in ("", "none"):
        return True
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    return on_node.isdigit() and seen < int(on_node)


class Machine(NamedTuple):
    """What JAX finds on this machine: "cpu", "gpu" or "tpu", and how many."""

    platform: str
    number: int


def machine(environ: Mapping[str, str]) -> Machine:
    """What JAX finds, asked of a process that ends at once: a GPU's memory, or a TPU, belongs to whom has asked."""
    wanted = environ.get("JAX_PLATFORMS", "").split(",")[0]
    if wanted == "cpu" or not any(importlib.util.find_spec(name) for name in _PLUGINS):
        return Machine("cpu", 1)
    preallocate = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env=dict(environ) | preallocate, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"JAX does not start on this machine: {(done.stderr.splitlines() or ['?'])[-1]}")
    platform, count = json.loads(done.stdout.splitlines()[-1])
    return Machine(platform, count)


class Shares(NamedTuple):
    """What each worker's environment is given, and what that means in words."""

    environments: list[dict[str, str]]
    words: str


def shares(jobs: int, found: Machine, environ: Mapping[str, str]) -> Shares:
    """One device a worker, and an equal part of its memory where several workers have the same.

    Raises: UsageError for more workers than TPU chips: one process owns a chip.
    """
    if jobs == 1 or found.platform == "cpu":
        return Shares([{} for _ in range(jobs)], "")
    if found.platform == "tpu":
        return _tpu_shares(jobs, found)
    names = visible(environ) or [str(i) for i in range(found.number)]
    names = names[: found.number]
    users = [len(range(i, jobs, len(names))) for i in range(len(names))]
    asked = environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or environ.get("XLA_CLIENT_MEM_FRACTION")
    whole = float(asked) if asked else MEMORY
    variable = next((name for name in _LISTS if name in environ), _LISTS[0])
    given = []
    for worker in range(jobs):
        place = worker % len(names)
        given.append({variable: names[place], "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{whole / users[place]:.3f}"})
    words = f"{jobs} workers on {len(names)} GPUs: one GPU each, {whole / max(users):.0%} of its memory"
    if jobs < len(names):
        words += f"; {len(names) - jobs} GPUs are left idle, --jobs {len(names)} takes all"
    return Shares(given, words)


def _tpu_shares(jobs: int, found: Machine) -> Shares:
    if jobs > found.number:
        raise UsageError(
            f"--jobs {jobs}: a TPU chip belongs to one process, and there {'is' if found.number == 1 else 'are'} "
            f"{found.number}; use --jobs {found.number}, with --batch to run many tasks as one program"
        )
    alone = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    given = [alone | {"TPU_VISIBLE_CHIPS": str(worker)} for worker in range(jobs)]
    return Shares(given, f"{jobs} workers on {found.number} TPU chips: one chip each")
