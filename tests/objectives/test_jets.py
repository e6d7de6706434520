"""Jets: moments against autodiff of the layer, the objective's gradient against autodiff, and exactness on exact
jets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.objectives.jets import Jet, JetObjective, jet_of, jet_problem, moments
from attnreg.problems.one_layer import OneLayerRegression, Unknowns


def teacher(n=60, d=2):
    keys = jax.random.split(jax.random.key(4), 5)
    A1, A2, A3 = (jax.random.normal(k, (n, d)) / d**0.5 for k in keys[:3])
    X, Y = (jax.random.normal(k, (d, d)) for k in keys[3:])
    B = jax.nn.softmax(A1 @ X @ A2.T, axis=-1) @ A3 @ Y
    return OneLayerRegression(A1, A2, A3, B), Unknowns(X, Y)


def exact_jet(problem, truth):
    """The jet of a ↦ output at a = 0, by autodiff of the layer."""

    def layer(a):
        return jax.nn.softmax((a @ truth.X) @ problem.A2[0].T) @ problem.A3[0] @ truth.Y

    zero = jnp.zeros(truth.X.shape[0])
    first = jax.jacfwd(layer)(zero)
    second = jax.jacfwd(jax.jacfwd(layer))(zero)
    return Jet(layer(zero), first.T, jnp.moveaxis(second, 0, 2))


def test_moments_are_the_taylor_coefficients_of_the_layer():
    problem, truth = teacher()
    m, C, S = moments(problem.A2[0], problem.A3[0])
    want = exact_jet(problem, truth)
    X, Y = truth
    np.testing.assert_allclose(m @ Y, want.G0, atol=1e-13)
    np.testing.assert_allclose(X @ C @ Y, want.G1, atol=1e-13)
    np.testing.assert_allclose(jnp.einsum("xa,yb,abc,cm->xym", X, X, S, Y), want.G2, atol=1e-13)


def test_the_truth_has_no_mismatch_on_exact_jets_and_the_gradient_agrees_with_autodiff():
    problem, truth = teacher()
    source = jax.tree.map(lambda x: x[None], moments(problem.A2[0], problem.A3[0]))
    target = jax.tree.map(lambda x: x[None], exact_jet(problem, truth))
    unit = Unknowns(jnp.asarray(2.0), jnp.asarray(0.5))
    objective = JetObjective(source, target, unit, jnp.asarray(0.0), jnp.asarray(0.3))
    at_truth = Unknowns(truth.X / unit.X, truth.Y / unit.Y)
    assert float(objective.value(at_truth)) < 1e-26

    objective = dataclasses.replace(objective, ridge=jnp.asarray(0.2))
    point = Unknowns(truth.X + 0.3, truth.Y - 0.2)
    vector, unravel = ravel_pytree(point)
    want = jax.jit(jax.grad(lambda v: objective.value(unravel(v))))(vector)
    np.testing.assert_allclose(ravel_pytree(objective.value_and_grad(point)[1])[0], want, rtol=1e-11, atol=1e-12)


def test_the_estimated_jet_is_close_to_the_exact_one():
    problem, truth = teacher()
    have = jet_of(problem.A1[0], problem.B[0], jnp.asarray(1.0), jnp.asarray(1e-10))
    want = exact_jet(problem, truth)
    errors = [float(jnp.linalg.norm(h - w) / jnp.linalg.norm(w)) for h, w in zip(have, want, strict=True)]
    # 60 noiseless points in two dimensions determine the second-order jet to a few per cent; a wrong factor 2 would
    # show.
    assert errors[0] < 0.01
    assert errors[1] < 0.02
    assert errors[2] < 0.1


def test_masked_problems_are_refused():
    problem, _ = teacher(8)
    data = [problem.A1, problem.A2, problem.A3, problem.B]
    with pytest.raises(ValueError, match="mask"):
        jet_problem(OneLayerRegression(*data, causal=True))
