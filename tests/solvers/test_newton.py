"""Newton's own promises: the damping rule, quadratic convergence, chord steps that save Hessians, refusals."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.solvers import Counts, Newton
from attnreg.solvers.newton import _cholesky, nielsen
from attnreg.solvers.state import acceptable, count
from tests.solvers import table

NOISY = table.stack()["noisy"]
OBJECTIVE = table.objective(NOISY)
START = OBJECTIVE.zeros()


def state(value=1.0, gradient_norm=1.0):
    zero = jnp.zeros(())
    return Newton().begin(zero, zero + value, zero + gradient_norm, inner=(), counts=count())


def rule(accepted, ratio, damping=1.0, growth=2.0):
    return tuple(map(float, nielsen(*(jnp.asarray(x) for x in (damping, growth, accepted, ratio)))))


def test_a_linear_problem_takes_one_newton_step():
    problem = table.OTHERS["linear"]()
    objective = table.objective(problem)
    result = Newton(damping=0.0, tol=1e-6, warmup=0).run(objective, objective.zeros())
    assert int(result.steps) == 1
    g, H = objective.value_grad_hessian(objective.zeros())[1:]
    np.testing.assert_allclose(np.ravel(result.params), -np.linalg.solve(H, np.ravel(g)), rtol=1e-6)


@functools.cache
def without_chord_steps():
    return Newton(chord=0.0, tol=1e-12, warmup=0).run(OBJECTIVE, START)


def test_convergence_is_quadratic_without_chord_steps():
    result = without_chord_steps()
    norms = np.asarray(result.history.gradient_norm[: int(result.steps) + 1]) / float(result.history.gradient_norm[0])
    close = norms[:-1] < 1e-2
    assert np.any(close)
    # Each step squares the norm, up to a constant, until rounding.
    assert np.all(norms[1:][close] <= np.maximum(100 * norms[:-1][close] ** 2, 1e-12))


def test_chord_steps_save_factorisations():
    plain, chord = without_chord_steps(), Newton(tol=1e-12, warmup=0).run(OBJECTIVE, START)
    assert bool(plain.converged)
    assert bool(chord.converged)
    assert int(chord.counts.hessians) < int(plain.counts.hessians)
    assert int(chord.counts.gradients) >= int(chord.counts.hessians)


def test_damping_shrinks_on_good_steps_and_grows_faster_at_each_failure():
    damping, growth = rule(True, 1.0)
    assert damping < 0.1
    assert growth == 2.0
    assert rule(False, -1.0, growth=4.0) == (4.0, 8.0)
    assert rule(True, 1.0, damping=0.0)[0] == pytest.approx(np.finfo(np.float64).eps ** (2 / 3))


def test_the_damped_factor_is_that_of_the_shifted_matrix_and_nan_when_indefinite():
    H = np.diag([2.0, 4.0])
    factor, shift = _cholesky(jnp.asarray(H), jnp.asarray(0.5))
    assert float(shift) == 1.5
    np.testing.assert_allclose(factor @ factor.T, H + 1.5 * np.eye(2), rtol=1e-14)
    assert np.isnan(_cholesky(jnp.asarray(np.diag([1.0, -4.0])), jnp.asarray(1e-3))[0]).any()


@pytest.mark.parametrize(
    ("value", "norm", "predicted", "accepted"),
    [
        (0.5, 0.5, 0.6, True),
        (1.5, 0.5, 0.6, False),
        (np.inf, 0.5, 0.6, False),
        (np.nan, 0.5, 0.6, False),
        (0.5, np.nan, 0.6, False),
        (0.5, 0.5, -0.6, False),
        (1.0, 0.5, 1e-17, True),
        (1.0, 1.5, 1e-17, False),
    ],
)
def test_what_is_accepted(value, norm, predicted, accepted):
    """The last two: below rounding error of the loss, the gradient decides."""
    got, ratio = acceptable(state(), *(jnp.asarray(x) for x in (value, norm, predicted)))
    assert bool(got) == accepted
    assert ratio.dtype == jnp.float64


def test_unknown_curvature_is_refused():
    with pytest.raises(ValueError, match="curvature is 'fisher'; it must be one of 'auto', 'exact', 'gauss_newton'"):
        Newton(curvature="fisher")


def test_secant_corrections_save_evaluations_and_reach_the_same_point():
    plain, corrected = (Newton(chord=0.9, memory=k, warmup=0, tol=1e-10).run(OBJECTIVE, START) for k in (0, 10))
    assert bool(plain.converged)
    assert bool(corrected.converged)
    assert int(corrected.counts.gradients) < int(plain.counts.gradients)
    np.testing.assert_allclose(corrected.value, plain.value, rtol=1e-10)


def test_the_warm_up_forms_no_hessian_and_lowers_the_loss():
    solver = Newton(warmup=10)
    before = solver.init(OBJECTIVE, START)
    after = solver.step(OBJECTIVE, before)
    assert int(Counts(*after.counts).hessians) == 0
    assert 1 < int(Counts(*after.counts).gradients) <= 11
    assert float(after.value) < float(before.value)
    assert int(after.steps) == 1


def test_a_float32_hessian_reaches_a_float64_gradient():
    result = Newton(coarse_dtype="float32", tol=1e-10).run(OBJECTIVE, START)
    assert bool(result.converged)
    assert result.params.dtype == jnp.float64
    assert float(result.gradient_norm) <= 1e-10 * float(result.history.gradient_norm[0])


def test_unknown_coarse_dtype_is_refused():
    with pytest.raises(ValueError, match="coarse_dtype is 'bfloat16'"):
        Newton(coarse_dtype="bfloat16")
