"""The adversary stays in the domain, improves on random pairs, finds what is attained, and catches a false bound."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from attnreg.bounds import BOUNDS, Norms
from attnreg.bounds.measure import Shape, measure
from experiments.bounds.lipschitz import Violation, check


@pytest.fixture(scope="module")
def found():
    bound, shape = BOUNDS["softmax.f.x"], Shape(1, 2, 2, 1)
    domains = [Norms.ball("softmax", R, n1=1, n=2) for R in (1.0, 2.0)]
    return bound, domains, measure(bound, jax.random.key(0), domains, shape, starts=128, steps=40)


def test_the_supremum_is_found_and_not_exceeded(found):
    bound, domains, result = found
    sharp = np.array([bound.sharp(d) for d in domains])
    assert (result.supremum <= sharp * (1 + 1e-9)).all()
    assert (result.supremum >= 0.97 * sharp).all()
    assert (result.supremum >= result.random_supremum).all()


def test_the_reported_pair_is_inside_and_reproduces_the_ratio(found):
    bound, domains, result = found
    for norms, ratio, (p, moved, along) in zip(domains, result.supremum, result.pairs, strict=True):
        assert bound.contains(norms, p)
        assert bound.contains(norms, moved)
        np.testing.assert_allclose(bound.change(p, moved, along) / bound.distance(p, moved), ratio, rtol=1e-9)


def test_improved_pairs_are_counted_not_guessed(found):
    _, _, result = found
    assert result.evaluated == 2 * 128 * 41
    assert 0 < result.improved < result.evaluated


def test_a_false_bound_fails_and_prints_the_pair(found):
    bound, domains, result = found
    check(bound, domains, result, np.array([bound.sharp(d) for d in domains]), 1e-8)
    with pytest.raises(Violation, match=r"softmax\.f\.x is violated.*ratio(?s:.*)from Point(?s:.*)to   Point"):
        check(bound, domains, result, 0.9 * np.array([bound.sharp(d) for d in domains]), 1e-8)
    small = [Norms.ball("softmax", 0.1, n1=1, n=2)] * 2
    with pytest.raises(RuntimeError, match="outside its domain"):
        check(bound, small, result, np.full(2, np.inf), 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_no_bound_is_violated(name):
    bound = BOUNDS[name]
    shape = Shape(1, 5, 2, 1) if bound.family == "softmax" else Shape(3, 4, 2, 2)
    domains = [Norms.ball(bound.family, R, n1=shape.n1, n=shape.n) for R in (0.7, 1.7)]
    result = measure(bound, jax.random.key(7), domains, shape, starts=512, steps=60)
    check(bound, domains, result, np.array([bound.sharp(d) for d in domains]), 1e-8)


def test_smoke_configs_declare_every_knob_of_the_full_ones():
    from configs import lipschitz, newton_region, target_shift

    for module in (lipschitz, newton_region, target_shift):
        full, smoke = module.get_config(), module.get_config("smoke")
        assert isinstance(full, ConfigDict)
        assert set(full) == set(smoke)
