"""The bootstrap band: as often right as it says, and blind to dead runs."""

import numpy as np

from experiments.runner.statistics import bootstrap_band


def test_the_band_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = bootstrap_band(rng.normal(size=(40, 1)), level=0.95, resamples=500)
        covered += low[0] <= 0 <= high[0]
    assert 0.88 <= covered / 200 <= 0.99  # 95 % nominal; the percentile interval is a little short at n = 40


def test_the_band_has_the_width_of_the_normal_one_and_ignores_dead_runs():
    runs = np.random.default_rng(0).normal(size=(40, 3)) + np.array([0, 1, 2])
    mean, low, high = bootstrap_band(runs)
    np.testing.assert_allclose(mean, runs.mean(0))
    np.testing.assert_allclose(high - low, 2 * 1.645 / 40**0.5, rtol=0.3)
    broken = runs.copy()
    broken[0, 1] = np.nan
    again = bootstrap_band(broken)
    np.testing.assert_allclose(again[0][1], runs[1:, 1].mean())
    assert np.isfinite(again[1]).all()
    assert np.isnan(bootstrap_band(np.full((3, 1), np.nan))[0]).all()
