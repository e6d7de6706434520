"""Interleaved timing: every contender runs in every round, so a busy moment hurts all of them alike.

Compilation happens before the clock starts (`warm`), results are waited for (`jax.block_until_ready`), and wall time
stands beside the CPU time of this process, which other processes disturb less. Numbers from different calls of
`interleave` are never compared: report ratios inside one.
"""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Clock:
    """CPU seconds of this process (all threads) and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return time.process_time() - self._cpu

    @property
    def wall(self) -> float:
        """Wall seconds."""
        return time.perf_counter() - self._wall


class Samples(NamedTuple):
    """Wall and CPU seconds of each timed run, and the round it belongs to."""

    wall: np.ndarray
    cpu: np.ndarray
    rounds: np.ndarray

    @property
    def median(self) -> float:
        """Median wall seconds."""
        return float(np.median(self.wall))

    @property
    def fastest(self) -> float:
        """Least wall seconds."""
        return float(np.min(self.wall))

    @property
    def fastest_cpu(self) -> float:
        """Least CPU seconds of the process (all threads)."""
        return float(np.min(self.cpu))

    @property
    def median_cpu(self) -> float:
        """Median CPU seconds of the process (all threads)."""
        return float(np.median(self.cpu))


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, its result waited for."""
    clock = Clock()
    jax.block_until_ready(run())
    return clock.wall, clock.cpu


def interleave(
    runs: Mapping[str, Callable[[], Any]], *, rounds: int, seconds: float = np.inf, least: int = 1, warm: int = 1
) -> dict[str, Samples]:
    """Time the contenders round by round, each round starting with another one.

    Args:
        runs: what to time. Each is called `warm` times first (compilation, caches), which is not counted.
        rounds: timed rounds. seconds: a contender that has used this much wall time sits out the rest, once it has
            `least` runs.
    """
    for run in runs.values():
        for _ in range(warm):
            jax.block_until_ready(run())
    kept: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    names = list(runs)
    gc.collect()
    gc.disable()  # a collection in the middle would be charged to whoever runs
    try:
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                done = kept[name]
                if len(done) < least or sum(wall for wall, _, _ in done) < seconds:
                    done.append((*timed(runs[name]), i))
    finally:
        gc.enable()
    return {
        name: Samples(*(np.array(column) for column in zip(*done, strict=True))) for name, done in kept.items() if done
    }


def paired_ratio(a: Samples, b: Samples, *, cpu: bool = False) -> float:
    """Median over common rounds of time(a) / time(b): below 1 means a is faster."""
    common, at, bt = np.intersect1d(a.rounds, b.rounds, return_indices=True)
    if not common.size:
        return float("nan")
    times = (a.cpu[at], b.cpu[bt]) if cpu else (a.wall[at], b.wall[bt])
    return float(np.median(times[0] / times[1]))
