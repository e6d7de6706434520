"""`AᵀD̃A` from the stored entries of a sparse A against a dense A: from how many entries a row on dense is faster."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from attnreg.lift.stored import StoredRows
from attnreg.lift.tensor_trick import weighted_gram
from experiments.benchmarks.timing import interleave, paired_ratio
from experiments.runner.record import Record

COLUMNS = ("n", "d", "entries a row", "stored, CPU ms", "dense, CPU ms", "speedup_cpu", "difference")


def stored(sizes: Sequence[tuple[int, int, tuple[int, ...]]], config: Any, record: Record) -> list[dict[str, Any]]:
    """A row for each n, d and number of entries a row; `speedup_cpu` is the dense product's CPU time over ours."""
    rows = []
    for n, d, counts in sizes:
        for s in counts:
            rows.append(dict(zip(COLUMNS, (n, d, s, *compared(n, d, s, config)), strict=True)))
            record.say(f"n = {n}, d = {d}, {s} entries a row: {rows[-1]['speedup_cpu']:.3g} times less CPU")
            jax.clear_caches()
    record.table("stored", COLUMNS, [list(row.values()) for row in rows])
    return rows


def compared(n: int, d: int, s: int, config: Any) -> tuple[float, float, float, float]:
    """CPU ms from stored entries and from a dense A, their ratio, and how far the results are apart, relative."""
    rng = np.random.default_rng(config.seed)
    columns = np.argsort(rng.random((n, d)), axis=1)[:, :s]
    places = np.stack([np.repeat(np.arange(n), s), columns.ravel()], axis=1)
    A = sparse.BCOO((jnp.asarray(rng.normal(size=n * s)), jnp.asarray(places)), shape=(n, d))
    rows, whole, weights = StoredRows.of(A), A.todense(), jnp.asarray(rng.normal(size=n))
    ours = jax.jit(StoredRows.gram).lower(rows, weights).compile()
    dense = jax.jit(weighted_gram).lower(whole, weights).compile()
    apart = jnp.max(jnp.abs(ours(rows, weights) - dense(whole, weights)))
    difference = float(apart / jnp.max(jnp.abs(dense(whole, weights))))
    runs = {"ours": lambda: ours(rows, weights), "dense": lambda: dense(whole, weights)}
    times = interleave(runs, rounds=config.rounds, seconds=config.seconds)
    a, b = times["ours"], times["dense"]
    return 1e3 * a.median_cpu, 1e3 * b.median_cpu, paired_ratio(b, a, cpu=True), difference
