"""Three passes for what only steers: how wrong they are, what they touch, and that they cost no step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data import attention_map, load_embedded_head
from attnreg.fit import fit_attention
from attnreg.fit.gauss_newton import checked_options, gauss_newton_steps
from attnreg.lift import precision
from attnreg.lift import tensor_trick as tt
from attnreg.lift.precision import curvature_precision, steering
from attnreg.objectives import AttentionObjective, FactoredObjective
from attnreg.problems import AttentionRegression
from attnreg.problems.checks import ProblemError
from attnreg.solvers import Newton, NewtonCG

SHORT = "three_passes"


def matrices(dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 300)).astype(dtype), rng.normal(size=(300, 20)).astype(dtype)


def off(found, a, b):
    """The largest error, in units of the natural scale |a| |b|."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return np.max(np.abs(np.asarray(found, np.float64) - exact) / (np.abs(a) @ np.abs(b)))


@pytest.mark.parametrize("multiply", [tt.matmul, lambda a, b: tt.einsum("nk,km->nm", a, b)], ids=["matmul", "einsum"])
def test_three_passes_are_wrong_by_the_sixteenth_bit(multiply):
    a, b = matrices()
    assert off(multiply(a, b), a, b) < 4 * 2.0**-23
    with curvature_precision(SHORT), steering():
        short = off(multiply(a, b), a, b)
    # What is left out is a rest times a rest, 2⁻⁹ of each factor at most; one pass would be wrong by 2⁻⁹.
    assert 2.0**-23 < short < 2.0**-15


def test_numbers_that_a_bfloat16_holds_are_multiplied_exactly():
    a, b = (np.round(part * 8) for part in matrices())
    with curvature_precision(SHORT), steering():
        np.testing.assert_array_equal(tt.matmul(a, b), a.astype(np.float64) @ b)


def test_float64_is_never_shortened():
    a, b = matrices(np.float64)
    with curvature_precision(SHORT), steering():
        assert off(tt.matmul(a, b), a, b) < 4 * 2.0**-52


def test_only_what_steers_is_shortened_and_a_cpu_does_not_do_it_by_itself():
    a, b = matrices()
    full = np.asarray(tt.matmul(a, b))
    with steering():
        np.testing.assert_array_equal(tt.matmul(a, b), full)
    with curvature_precision(SHORT):
        np.testing.assert_array_equal(tt.matmul(a, b), full)
        with steering():
            assert np.any(np.asarray(tt.matmul(a, b)) != full)
        np.testing.assert_array_equal(tt.matmul(a, b), full)


def test_no_compiled_program_is_taken_for_one_of_another_precision():
    a, b = matrices()
    multiply = jax.jit(tt.matmul)
    full = np.asarray(multiply(a, b))
    with curvature_precision(SHORT), steering():
        short = np.asarray(multiply(a, b))
    assert np.any(short != full)
    np.testing.assert_array_equal(multiply(a, b), full)


@pytest.mark.parametrize(("platform", "algorithm"), [("tpu", "BF16_BF16_F32_X3"), ("gpu", "TF32_TF32_F32_X3")])
def test_accelerators_are_asked_for_three_passes_of_their_own(monkeypatch, platform, algorithm):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    asked = []
    a, b = map(jnp.asarray, matrices())
    with curvature_precision(SHORT), steering():
        precision.product(lambda x, y, precision: asked.append(precision) or x, a, b)
    assert [choice.name for choice in asked] == [algorithm]
    assert precision.chosen() == {"tpu": SHORT, "gpu": "highest"}[platform]


@pytest.fixture(scope="module")
def head():
    """The reduced head that ships, in float32."""
    found = load_embedded_head(dtype=np.float32)
    return AttentionRegression(found.A[:8], found.A[:8], attention_map(found.Q, found.K)[:8])


@pytest.mark.parametrize("solver", [Newton(tol=1e-5), Newton(tol=1e-5, warmup=0), NewtonCG(tol=1e-5)], ids=repr)
def test_three_passes_cost_no_step_and_values_and_gradients_are_full(head, solver):
    objective = AttentionObjective(head)
    full = solver.run(objective, objective.start())
    with curvature_precision(SHORT):
        short = solver.run(objective, objective.start())
    assert bool(full.converged)
    assert bool(short.converged)
    assert int(short.steps) <= int(full.steps) + 1
    assert int(short.counts.hessians) <= int(full.counts.hessians) + 1
    assert int(short.counts.hvps) <= 1.1 * int(full.counts.hvps)
    np.testing.assert_allclose(short.value, full.value, rtol=1e-6)
    value, gradient = objective.value_and_grad(short.params)
    np.testing.assert_allclose(short.value, value, rtol=1e-6)
    np.testing.assert_allclose(short.gradient_norm, jnp.linalg.norm(gradient), rtol=0.05)


def test_levenberg_marquardt_is_steered_too_and_its_programs_are_told_apart(head):
    objective = FactoredObjective(head, 8)

    def losses():
        steps = gauss_newton_steps(objective, objective.start(), checked_options(None), lambda: False)
        return [step.value for step, _ in zip(steps, range(6), strict=False)]

    full = losses()
    with curvature_precision(SHORT):
        short = losses()
    assert short != full
    assert losses() == full
    assert short[-1] < 1.05 * full[-1]


def test_a_fit_is_the_same_to_its_tolerance():
    rng = np.random.default_rng(1)
    A, Q, K = (rng.normal(size=size).astype(np.float32) for size in ((4, 20, 6), (6, 2), (6, 2)))
    maps = jax.nn.softmax(A @ Q @ K.T @ np.swapaxes(A, 1, 2), axis=-1)
    with curvature_precision(SHORT):
        assert fit_attention(A, maps, rank=2, tol=1e-10).train < 1e-10


def test_an_unknown_precision_is_refused():
    words = "choice is 'bfloat16'; it must be one of 'highest', 'three_passes'"
    with pytest.raises(ProblemError, match=words), curvature_precision("bfloat16"):
        pass
