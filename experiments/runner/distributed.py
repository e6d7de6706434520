"""One run on many processes: how they meet, who writes, and how they decide alike."""

import argparse
import ipaddress
import os
import pickle
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runner import devices
from experiments.runner.config import UsageError


class Place(NamedTuple):
    """This process among all; process 0 is the one that writes, prints and locks."""

    number: int
    processes: int

    @property
    def primary(self) -> bool:
        """Whether this is process 0."""
        return self.number == 0


ALONE = Place(0, 1)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line of a run on many processes."""
    add = parser.add_argument
    add("--distributed", action="store_true", help="one of many processes, found from Slurm, TPU or MPI")
    add("--coordinator", default="", metavar="HOST:PORT", help="with --processes and --process: meet there by hand")
    add("--coordinator-bind", default="", metavar="ADDRESS:PORT", help="where process 0 listens (default: see guide)")
    add("--processes", type=int, default=0, help="how many processes there are")
    add("--process", type=int, default=-1, help="which of them this is, from 0")


def initialize(options: argparse.Namespace) -> Place:
    """Join the other processes, if there are any; call before anything touches a device.

    A coordinator on loopback listens on loopback only. Elsewhere (a Slurm job, a TPU pod) it must be reachable, and
    JAX's service has no authentication: `--coordinator-bind` narrows the interface.
    """
    if options.coordinator:
        if options.processes < 1 or not 0 <= options.process < options.processes:
            raise UsageError("--coordinator needs --processes N and --process between 0 and N - 1")
        bind = options.coordinator_bind or (options.coordinator if _loopback(options.coordinator) else None)
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            local_device_ids=_own_devices(),
            coordinator_bind_address=bind,
        )
    elif options.processes or options.process >= 0:
        raise UsageError("--processes and --process need --coordinator HOST:PORT")
    elif options.distributed:
        return join_cluster(options.coordinator_bind)
    else:
        return ALONE
    return Place(jax.process_index(), jax.process_count())


def join_cluster(bind: str = "") -> Place:
    """Join the other processes of this Slurm job, TPU pod or MPI program."""
    ours = _own_devices()
    try:
        jax.distributed.initialize(coordinator_bind_address=bind or None, local_device_ids=ours)
    except ValueError as error:
        raise UsageError(
            f"--distributed found no cluster ({error}); start it with srun, on a TPU pod, or give --coordinator"
        ) from error
    return Place(jax.process_index(), jax.process_count())


def _own_devices() -> list[int] | None:
    """The GPUs of this process ([]: all that it sees), None where the user says it to JAX itself."""
    return None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices.local_device_ids(os.environ)


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def gather(value: int) -> list[int]:
    """The `value` of every process, on every process: a collective."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    return [int(v) for v in np.asarray(multihost_utils.process_allgather(np.int32(value))).ravel()]


def gather_all(value: Any) -> list[Any]:
    """Any `value` of every process, on every process, in their order: a collective."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(pickle.dumps(value), np.uint8)  # read by the processes of this very program
    sizes = gather(mine.size)
    padded = np.zeros(max(sizes), np.uint8)
    padded[: mine.size] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(decision: bool) -> bool:
    """Whether any process says yes: a collective, so that all act alike."""
    return any(gather(int(decision)))
