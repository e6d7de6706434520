"""One numerical setting for the whole test process: float64, no silent promotion, no silent broadcasting."""

import ctypes
import gc
import itertools
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the time of these tests is XLA's compiler, so it makes the least effort: code that is not optimised, in one
# module, by the plain emitter (the other one goes through MLIR once for every fusion). jaxlib 0.12 has no plain
# emitter, and ends a process that asks for it without a word. Your own XLA_FLAGS win.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * (tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)),
)

import jax
import pytest

MAPS, MEMORY = Path("/proc/self/maps"), Path("/proc/self/statm")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Linux refuses a process more than 65,530 memory maps, and every compiled program takes several: after two thousand
# tests one process aborted inside the compiler. Memory ran to 5.5 GB a process.
MOST_MAPS, MOST_BYTES = 30_000, 2 * 2**30
_done = itertools.count()


def _crowded() -> bool:
    """Whether compiled programs have taken half of the memory maps that a process may have, or 2 GB (on Linux)."""
    if not MAPS.exists():
        return False
    resident = int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident > MOST_BYTES or MAPS.read_bytes().count(b"\n") > MOST_MAPS


@pytest.fixture(autouse=True)
def _drop_compiled_programs():
    """Forget compiled programs when there are many, and give their memory back: the C library keeps it otherwise."""
    yield
    if next(_done) % 20 == 0 and _crowded():
        jax.clear_caches()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@pytest.fixture
def key():
    return jax.random.key(0)
