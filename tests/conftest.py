"""One numerical setting for the whole test process: float64, no silent promotion, no silent broadcasting."""

import gc
import itertools
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the time of these tests is XLA's compiler, so it makes the least effort: code that is not optimised, by the
# plain emitter (the other one goes through MLIR once for every fusion), in one module. Your own XLA_FLAGS win.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

MAPS = Path("/proc/self/maps")

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Linux refuses a process more than 65,530 memory maps, and every compiled program takes several: after two thousand
# tests one process aborted inside the compiler.
MOST_MAPS = 30_000
_done = itertools.count()


@pytest.fixture(autouse=True)
def _drop_compiled_programs():
    """Forget compiled programs when they have taken about half of the memory maps that a process may have."""
    yield
    if next(_done) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key():
    return jax.random.key(0)
