"""Entry by entry: the constants hold on random pairs of a box, are reached, and never exceed the published kind."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds.elementwise import ELEMENTWISE, largest_slope, reach


def quantity(name, s, b):
    u = np.exp(s)
    alpha = u.sum(-1, keepdims=True)
    found = {"u": u, "alpha": alpha, "log_alpha": np.log(alpha), "alpha_inverse": 1 / alpha, "f": u / alpha}
    return found.get(name, u / alpha - b)


def pairs(n, M, count=20000, seed=0):
    """Pairs of logits in the box |s| ≤ M, near and far, many at its corners."""
    rng = np.random.default_rng(seed)
    s = M * np.clip(rng.normal(size=(count, n)) * 2, -1, 1)
    step = M * np.exp(rng.uniform(np.log(1e-4), 0.0, (count, 1)))
    moved = np.clip(s + step * np.sign(rng.normal(size=(count, n))), -M, M)
    return s, moved


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize(("n", "M"), [(2, 0.5), (3, 1.0), (6, 2.0), (40, 0.3)])
def test_no_entry_moves_further_and_some_nearly_as_far(name, n, M):
    row, (s, moved) = ELEMENTWISE[name], pairs(n, M)
    b = np.full(n, 1 / n)
    uniform = np.full((1, n), M if name != "alpha_inverse" else -M)
    near = uniform - 1e-4 * np.sign(uniform)
    s, moved = np.concatenate([s, uniform]), np.concatenate([moved, near])
    change = np.abs(quantity(name, moved, b) - quantity(name, s, b)).max(axis=-1)
    distance = np.abs(moved - s).max(axis=-1)
    ratios = change[distance > 0] / distance[distance > 0]
    assert ratios.max() <= row.sharp(n, M) * (1 + 1e-9)
    assert ratios.max() >= (0.4 if name in ("f", "residual") and n > 6 else 0.85) * row.sharp(n, M)
    assert row.sharp(n, M) <= row.norm_by_norm(n, M)


def test_half_is_attained_by_one_place_against_the_rest():
    """`f_1 = ½`; s_1 up and all others down by δ: the slope is 2 f(1 − f) = ½, whatever n."""
    for n in (2, 5, 50):
        s = np.zeros(n)
        s[0] = math.log(n - 1)
        move = np.full(n, -1e-5)
        move[0] = 1e-5
        change = np.abs(quantity("f", s + move, 0) - quantity("f", s, 0)).max()
        assert math.isclose(change / 1e-5, 0.5, rel_tol=1e-6)
        assert largest_slope(n, math.log(n)) == 0.5


def test_values_and_the_reach_of_an_entry_of_x_against_numpy():
    rng = np.random.default_rng(1)
    s, b = rng.normal(size=4), rng.dirichlet(np.ones(4))
    for name, row in ELEMENTWISE.items():
        got = np.asarray(row.value(jnp.asarray(s), jnp.asarray(b)))
        np.testing.assert_allclose(got, np.squeeze(quantity(name, s, b)), rtol=1e-13)
    A1, A2 = rng.normal(size=(3, 2)), rng.normal(size=(4, 5))
    move = rng.choice([-1.0, 1.0], (200, 2, 5))
    moved = np.abs(A1 @ move @ A2.T).max()
    assert 0.5 * reach(A1, A2) <= moved <= reach(A1, A2)


def test_overflow_is_infinite_and_never_nan():
    for row in ELEMENTWISE.values():
        for value in (row.sharp(3, 1e4), row.norm_by_norm(3, 1e4)):
            assert value > 0
    assert ELEMENTWISE["f"].sharp(3, 1e4) == 0.5
    assert ELEMENTWISE["u"].sharp(3, 1e4) == math.inf
