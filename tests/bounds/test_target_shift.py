"""The shift identity to eps for every loss and move, and measured shift ≤ sharp ≤ norm by norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.bounds import Point
from attnreg.bounds import target_shift as ts

EPS = float(np.finfo(np.float64).eps)
N, D, M = 5, 3, 4


def instance(loss, seed=0, *, rows=N):
    rng = np.random.default_rng(seed)
    A1, A2, A3, X, Y = (jnp.asarray(rng.normal(size=s)) for s in ((rows, D), (N, D), (N, D), (D, D), (D, M)))
    if loss == "one_layer":
        return Point(A1, A2, X, jnp.asarray(rng.normal(size=(rows, M))), A3, Y)
    return Point(A1, A2, X, jnp.asarray(rng.dirichlet(np.ones(N), size=rows)))


def moves(p, seed=1, size=0.3):
    """A weight move, a data move, and both at once."""
    rng = np.random.default_rng(seed)

    def shaken(names):
        fields = {n: getattr(p, n) for n in names if getattr(p, n) is not None}
        return p._replace(**{n: z + size * jnp.asarray(rng.normal(size=z.shape)) for n, z in fields.items()})

    return {
        "weights": shaken(["X", "Y"]),
        "data": shaken(["A1", "A2", "A3"]),
        "both": shaken(["X", "Y", "A1", "A2", "A3"]),
    }


def sums(p, loss, absolute=False):
    """α of the rescaled family by rows, or the sums of absolute values."""
    g = {"rescaled": np.exp, "cosh": np.cosh, "sinh": np.sinh}[loss](np.asarray(p.A1 @ p.X @ p.A2.T))
    return (np.abs(g) if absolute else g).sum(axis=1)


@pytest.mark.parametrize("loss", ts.LOSSES)
@pytest.mark.parametrize("rows", [1, N])
def test_the_identity_holds_to_eps_and_the_limits_in_order(loss, rows):
    for seed in range(3):
        p = instance(loss, seed, rows=rows)
        for moved in moves(p, seed + 10).values():
            B = ts.shifted_targets(p, moved, loss)
            left, right = ts.residual(moved, loss), ts.residual(p._replace(B=B), loss)
            scale = max(float(jnp.max(jnp.abs(z))) for z in (left, right, p.B)) + (
                sums(p, loss, True).max() + sums(moved, loss, True).max() if loss in ts.ACTIVATIONS else 1.0
            )
            np.testing.assert_allclose(left, right, rtol=0, atol=16 * EPS * scale)
            shift = float(jnp.linalg.norm(B - p.B))
            assert 0 < shift <= ts.shift_limit(p, moved, loss) <= ts.published_limit(p, moved, loss)


def test_targets_outside_the_simplex_have_the_general_factor():
    p = instance("rescaled", 3)._replace(B=jnp.asarray(np.random.default_rng(3).normal(size=(N, N)) * 3))
    for moved in moves(p).values():
        shift = float(jnp.linalg.norm(ts.shifted_targets(p, moved, "rescaled") - p.B))
        assert shift <= ts.shift_limit(p, moved, "rescaled")


def test_the_normalized_limit_is_attained_by_two_points():
    p = Point(jnp.ones((1, 1)), jnp.eye(2), jnp.zeros((1, 2)), jnp.array([[0.5, 0.5]]))
    moved = p._replace(X=jnp.array([[1e-4, -1e-4]]))
    shift = float(jnp.linalg.norm(ts.shifted_targets(p, moved, "normalized") - p.B))
    assert shift >= (1 - 1e-6) * ts.shift_limit(p, moved, "normalized")


@pytest.mark.parametrize("loss", ts.LOSSES)
def test_a_gradient_step_is_the_closed_difference(loss):
    """`B̃` of a small gradient step is the step times the derivative of the residual along minus the gradient."""
    p = instance(loss, 5)
    unit = ts.gradient_step(p, loss, 1.0)
    tangent = jax.tree.map(jnp.subtract, unit, p)
    slope = jax.jvp(lambda z: ts.residual(z, loss), (p,), (tangent,))[1]
    expected = -slope / (jnp.asarray(sums(p, loss)[:, None]) if loss in ts.ACTIVATIONS else 1.0)
    largest = float(jnp.max(jnp.abs(expected)))
    step = 1e-6 / largest
    B = ts.shifted_targets(p, ts.gradient_step(p, loss, step), loss)
    np.testing.assert_allclose((B - p.B) / step, expected, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("loss", ts.LOSSES)
def test_successive_updates_stay_below_the_telescoped_limit(loss):
    path = [instance(loss, 6)]
    for t in range(4):
        path.append(moves(path[-1], 20 + t, 0.05)["both"]._replace(B=path[0].B))
        total = float(jnp.linalg.norm(ts.shifted_targets(path[0], path[-1], loss) - path[0].B))
        assert total <= ts.telescoped_limit(path, loss)


def test_attention_layers_against_numpy():
    rng = np.random.default_rng(8)
    A, QK, V = rng.normal(size=(N, D)), rng.normal(size=(D, D)), rng.normal(size=(D, D))
    scores = A @ QK @ A.T
    soft = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    arguments = tuple(map(jnp.asarray, (A, QK, V)))
    np.testing.assert_allclose(ts.attention_layer(*arguments, scale=0.5), A + 0.5 * soft @ A @ V, atol=1e-13)
    linear = ts.attention_layer(*arguments, scale=0.5, kind="linear")
    np.testing.assert_allclose(linear, A + 0.5 * scores @ A @ V / N, atol=1e-13)


def test_unknown_names_are_refused_by_name():
    p = instance("normalized")
    with pytest.raises(ValueError, match="loss is 'softmax'; it must be one of normalized"):
        ts.shifted_targets(p, p, "softmax")
    with pytest.raises(ValueError, match="kind is 'cosine'"):
        ts.attention_layer(p.A1, p.X, p.X, scale=1.0, kind="cosine")
