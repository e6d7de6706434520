"""cosh and sinh in the place of exp: the limits on a ball of logits, the depth of the Hessian, and the weight."""

import numpy as np
import pytest

from attnreg.bounds.domain import Norms
from attnreg.bounds.hyperbolic import DEPTH, entrywise, hyperbolic_weight
from attnreg.bounds.newton_region import hessian_lipschitz
from attnreg.bounds.registry import BOUNDS
from attnreg.problems.checks import ProblemError
from tests.oracles import rows

FUNCTIONS = {"cosh": (np.cosh, np.sinh, np.cosh, np.sinh), "sinh": (np.sinh, np.cosh, np.sinh, np.cosh)}


def ball(n, L, count=4000, seed=0):
    """Logits of norm L: random ones, one large entry, and all equal."""
    s = np.random.default_rng(seed).normal(size=(count, n)) ** 3
    s[0], s[1] = np.eye(n)[0], 1.0
    return L * s / np.linalg.norm(s, axis=1, keepdims=True)


@pytest.mark.parametrize("activation", DEPTH)
@pytest.mark.parametrize(("n", "L"), [(2, 0.3), (5, 1.0), (4, 3.0)])
def test_the_limits_hold_and_are_nearly_reached(activation, n, L):
    g, g1, g2, g3 = (np.abs(z(ball(n, L))) for z in FUNCTIONS[activation])
    found = (g.sum(1).max(), np.linalg.norm(g1, axis=1).max(), g1.max(), g2.max(), g3.max())
    for value, limit in zip(found, entrywise(activation, n, L), strict=True):
        assert 0.7 * limit <= value <= limit * (1 + 1e-14)


def deepest(activation, g, b):
    """The least of `g''_i z_i / (Σ|g|)²`, what the diagonal of ½∇² is without its positive part."""
    r = g - g.sum() * b
    z = r - r @ b
    second = g  # cosh'' = cosh, sinh'' = sinh
    return (second * z).min() / np.abs(g).sum() ** 2


def test_the_depth_is_proved_and_reached():
    rng = np.random.default_rng(1)
    for activation, signs in (("cosh", 1.0), ("sinh", -1.0)):
        worst = 0.0
        for n in (2, 3, 5):
            for _ in range(1500):
                g = rng.dirichlet(np.full(n, 0.4)) * (1 if signs > 0 else rng.choice([-1, 1], n))
                worst = min(worst, deepest(activation, g, rng.dirichlet(np.full(n, 0.4))))
        assert worst >= -DEPTH[activation] / 2
    # The worst cases of the proofs: b between a place and the rest; a third key, against two of opposite signs.
    assert np.isclose(deepest("cosh", np.array([1, 2]) / 3, np.array([2, 1]) / 3), -2 / 27, rtol=1e-12)
    assert np.isclose(deepest("sinh", np.array([1, -5, 0]) / 6, np.array([0.0, 0, 1])), -1 / 12, rtol=1e-12)


@pytest.mark.parametrize("activation", DEPTH)
def test_the_weight_makes_instances_convex(activation):
    rng, l, broken = np.random.default_rng(2), 0.1, 0
    for _ in range(60):
        A, x = 1.5 * rng.normal(size=(4, 2)), rng.normal(size=2)
        s = A @ x
        sigma = np.linalg.svd(A, compute_uv=False)[-1]
        row = rows.naive(f"{activation}_rescaled", s, np.eye(4)[rng.integers(4)] * 0.6 + 0.1)
        w2 = hyperbolic_weight(activation, l, sigma, n=4, L=float(np.linalg.norm(s)))
        assert np.linalg.eigvalsh(A.T @ (row.hessian + w2 * np.eye(4)) @ A)[0] >= l * (1 - 1e-10)
        broken += np.linalg.eigvalsh(A.T @ row.hessian @ A)[0] < l
    assert broken > 0
    with pytest.raises(ProblemError, match="activation is 'tanh'; it must be one of 'cosh', 'sinh'"):
        hyperbolic_weight("tanh", l, 1.0, n=4, L=1.0)


def test_newtons_constant_of_every_loss_is_that_of_the_table():
    norms = Norms.ball("attention", 1.3, n1=3, n=4)
    for loss in ("rescaled", "cosh", "sinh"):
        bound = BOUNDS[f"attention.hessian_{loss}.X"]
        assert hessian_lipschitz(norms, loss=loss) == bound.sharp(norms)
        assert hessian_lipschitz(norms, kind="published", loss=loss) == bound.norm_by_norm(norms)
    with pytest.raises(ProblemError, match="loss is 'kl'"):
        hessian_lipschitz(norms, loss="kl")
