"""A softmax regression with a sparse A: against the dense objective and the formulas, and what a step costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

from attnreg.bounds.newton_region import approximation_weight
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.diagonal import diagonal_hessian, diagonal_sampler
from attnreg.objectives.stored import StoredObjective
from attnreg.problems import SoftmaxRegression
from attnreg.problems.checks import ProblemError
from attnreg.solvers import LBFGS, SketchedNewton
from tests.lift.test_stored import random_rows
from tests.objectives.test_costs import flops
from tests.oracles import published as P

N, D = 24, 5
EPS = float(np.finfo(np.float64).eps)


def data(n=N, d=D, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.4)
    A[0] = 1.0
    return A, rng.dirichlet(np.ones(n)), rng.normal(size=d)


def test_the_diagonal_hessian_is_that_of_the_formulas():
    """D̃ of ‖f − b‖² is twice `f² + p`, from the printed Hessian; assembled densely by NumPy."""
    A, b, x = data()
    u = np.exp(A @ x)
    f = u / u.sum()
    want = A.T @ np.diag(2 * (f * f + P.normalized_gradient(f, b)) + 0.7**2) @ A + 0.2 * np.eye(D)
    objective = StoredObjective(sparse.BCOO.fromdense(jnp.asarray(A)), b, weight=0.7, ridge=0.2)
    np.testing.assert_allclose(jax.jit(diagonal_hessian)(objective, jnp.asarray(x)), want, rtol=0, atol=256 * EPS)


@pytest.mark.parametrize(("loss", "weight"), [("normalized", None), ("rescaled", 0.3), ("kl", np.linspace(0.1, 1, N))])
def test_it_is_the_dense_objective(loss, weight):
    A, b, x = data(seed=1)
    stored = StoredObjective(sparse.BCOO.fromdense(jnp.asarray(A)), b, loss=loss, weight=weight, ridge=0.1)
    dense = AttentionObjective(SoftmaxRegression(A, b, loss=loss, weight=weight, ridge=0.1))
    value, gradient = stored.value_and_grad(jnp.asarray(x))
    want, slope = dense.value_and_grad(jnp.asarray(x)[None])
    scale = 256 * EPS * (1 + abs(float(want)) + float(jnp.max(jnp.abs(slope))))
    np.testing.assert_allclose(value, want, rtol=0, atol=scale)
    np.testing.assert_allclose(stored.value(jnp.asarray(x)), want, rtol=0, atol=scale)
    np.testing.assert_allclose(gradient, slope[0], rtol=0, atol=scale)
    kept, whole = diagonal_hessian(stored, jnp.asarray(x)), diagonal_hessian(dense, jnp.asarray(x)[None])
    np.testing.assert_allclose(kept, whole, rtol=0, atol=256 * EPS * (1 + float(jnp.max(jnp.abs(whole)))))


def test_its_gradient_is_the_derivative():
    A, b, x = data(seed=2)
    objective = StoredObjective(sparse.BCOO.fromdense(jnp.asarray(A)), b, weight=0.3)

    def plain(x):
        return jnp.sum((jax.nn.softmax(A @ x) - b) ** 2) + 0.5 * jnp.sum((0.3 * (A @ x)) ** 2)

    want = jax.grad(plain)(jnp.asarray(x))
    for have in (objective.value_and_grad(jnp.asarray(x))[1], jax.grad(objective.value)(jnp.asarray(x))):
        np.testing.assert_allclose(have, want, rtol=0, atol=256 * EPS)


def test_newton_with_the_diagonal_and_lbfgs_reach_the_dense_minimum():
    A, b, _ = data(seed=3)
    A[:D] += 3 * np.eye(D)
    weight = approximation_weight(0.1, keep="diagonal") ** 0.5
    objective = StoredObjective(sparse.BCOO.fromdense(jnp.asarray(A)), b, weight=weight)
    start = jnp.full(D, 0.1)
    steps = SketchedNewton(diagonal_sampler, 1, safeguard=False, max_steps=14, tol=0.0).run(objective, start)
    dense = AttentionObjective(SoftmaxRegression(A, b, weight=weight))
    first, last = (float(jnp.linalg.norm(dense.value_and_grad(x[None])[1])) for x in (start, steps.params))
    assert last < 1e-11 * first
    line = LBFGS(max_steps=60, tol=1e-9).run(objective, start)
    np.testing.assert_allclose(line.params, steps.params, rtol=0, atol=1e-7)


def test_a_step_costs_the_entries_and_not_the_columns():
    """Flops of the compiled programs: a hundred times as many columns add the d² of the result, and nothing else."""
    n, s = 2048, 4
    counted = {}
    for d in (16, 1600):
        A = random_rows(n, d, s)
        objective = StoredObjective(A, np.full(n, 1 / n))
        x = objective.zeros()
        for name, call in (("gradient", StoredObjective.value_and_grad), ("hessian", StoredObjective.diagonal_hessian)):
            counted[name, d] = flops(jax.jit(call).lower(objective, x).compile())
    assert counted["gradient", 16] <= n * (8 * s + 40)
    assert counted["hessian", 16] <= n * (8 * s * (s + 1) / 2 + 60)
    assert counted["gradient", 1600] <= 1.1 * counted["gradient", 16] + 4 * 1600
    assert counted["hessian", 1600] <= 1.1 * counted["hessian", 16] + 6 * 1600**2 < 2 * n * 1600**2 / 100


def test_other_arrays_are_refused():
    A, b, _ = data()
    stored = sparse.BCOO.fromdense(jnp.asarray(A))
    with pytest.raises(ProblemError, match="A is a ndarray; it must be a BCOO matrix"):
        StoredObjective(A, b)
    with pytest.raises(ProblemError, match=r"b is float64 of shape \(3,\); it must be float64 of shape \(24,\)"):
        StoredObjective(stored, b[:3])
    with pytest.raises(ProblemError, match=r"weight has shape \(3,\); it must be a scalar"):
        StoredObjective(stored, b, weight=np.ones(3))
