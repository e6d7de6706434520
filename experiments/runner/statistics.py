"""Statistics over the runs of an experiment: the mean and its bootstrap band, for tables and figures alike."""

from typing import Any

import numpy as np


def bootstrap_band(runs: Any, *, level: float = 0.9, resamples: int = 1000) -> tuple[Any, Any, Any]:
    """Mean over runs and its bootstrap percentile band, (mean, low, high), each (T,), with a fixed seed.

    Args:
        runs: (R, T), one row per run; a non-finite value is left out of its column.
        level: coverage.
        resamples: bootstrap resamples of the runs.

    Precision: the band is that of the *mean*; with one run it has zero width and says nothing.

    >>> bootstrap_band(np.array([[1.0], [3.0]]))[0].tolist()
    [2.0]
    """
    runs = np.asarray(runs, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(runs), (resamples, len(runs)))
    finite = np.isfinite(runs)
    known = np.where(finite, runs, 0.0)
    mean = _ratio(known.sum(axis=0), finite.sum(axis=0))
    means = _ratio(known[picks].sum(axis=1), finite[picks].sum(axis=1))
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    some = np.isfinite(mean)
    if some.any():
        low[some], high[some] = np.nanpercentile(means[:, some], [50 * (1 - level), 50 * (1 + level)], axis=0)
    return mean, low, high


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sums / counts, NaN where nothing was counted."""
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
