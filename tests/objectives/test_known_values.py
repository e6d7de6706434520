"""A head whose values are known: every quantity against autodiff of the loss as one would write it on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.objectives import Factors, KnownValues
from attnreg.problems import OneLayerRegression, ProblemError

EPS = float(np.finfo(np.float64).eps)
D1, D2, D3, C, N, RANK = 3, 4, 3, 2, 6, 2


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def case(*, causal=False, ridge=0.0):
    A1, A2, A3, B, Y = draw(0, (2, N, D1), (2, N, D2), (2, N, D3), (2, N, C), (D3, C))
    objective = KnownValues(OneLayerRegression(A1, A2, A3, B, causal=causal, ridge=ridge), Y, rank=RANK)
    x, v = (Factors(*draw(seed, (D1, RANK), (D2, RANK))) for seed in (1, 2))

    def outputs(flat):
        x = back(flat)
        logits = jnp.einsum("knd,dr,er,kme->knm", A1, x.Q, x.K, A2)
        logits = jnp.where(jnp.tri(N, dtype=bool), logits, -jnp.inf) if causal else logits
        return jnp.einsum("knm,kme,ec->knc", jax.nn.softmax(logits, axis=-1), A3, Y) - B

    def plain(flat):
        x = back(flat)
        return jnp.sum(outputs(flat) ** 2) + ridge / 2 * jnp.sum((x.Q @ x.K.T) ** 2)

    flat, back = ravel_pytree(x)
    return objective, x, v, flat, plain, outputs


def close(got, want):
    """Within 200 eps of the largest entry of what is wanted."""
    got, want = (np.asarray(ravel_pytree(x)[0]) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=200 * EPS * max(1.0, np.max(np.abs(want))))


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"ridge": 0.3}], ids=str)
def test_every_quantity_is_that_of_the_plain_loss(options):
    objective, x, v, flat, plain, _ = case(**options)
    value, gradient, H = plain(flat), jax.grad(plain)(flat), jax.hessian(plain)(flat)
    close(objective.value(x), value)
    close(objective.value_and_grad(x), (value, gradient))
    close(objective.value_grad_hessian(x), (value, gradient, H))
    for cache in ("none", "blocks"):
        line = objective.linearize(x, cache=cache)
        close((line.value, line.gradient, line.hvp(v)), (value, gradient, H @ ravel_pytree(v)[0]))


def test_gauss_newton_is_that_of_the_outputs():
    objective, x, v, flat, _, outputs = case()
    J = jax.jacobian(lambda flat: outputs(flat).ravel())(flat)
    close(objective.gauss_newton(x), 2 * J.T @ J)
    for cache in ("none", "blocks"):
        close(objective.linearize(x, gauss_newton=True, cache=cache).hvp(v), 2 * J.T @ (J @ ravel_pytree(v)[0]))


def test_the_preconditioner_is_that_of_the_full_unknown_in_the_coordinates_of_the_factors():
    objective, x, v, *_ = case()
    of_x = objective.joint.preconditioner(objective._at(x)).parts.X
    found = objective.preconditioner(x)
    close(found.parts.Q.apply(v.Q), of_x.apply(v.Q @ x.K.T) @ x.K)
    close(found.parts.K.apply(v.K), of_x.apply(x.Q @ v.K.T).T @ x.Q)


def test_the_start_is_outside_the_saddle_and_below_uniform_attention():
    rng = np.random.default_rng(4)
    A1, A2, A3 = draw(3, (4, 20, D1), (4, 20, D2), (4, 20, D3))
    true = Factors(*(jnp.asarray(0.2 * rng.normal(size=(d, RANK))) for d in (D1, D2)))
    B = jax.nn.softmax(A1 @ true.product() @ jnp.swapaxes(A2, 1, 2), axis=-1) @ A3
    objective = KnownValues(OneLayerRegression(A1, A2, A3, B), jnp.eye(D3), rank=RANK)
    assert float(objective.value(true)) < 1e-28
    assert float(objective.value(objective.start())) < 0.5 * float(objective.value(objective.zeros()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(rank=4), "rank is 4; it must be at least 1 and at most 3"),
        (dict(Y=jnp.ones((D3, 5))), r"Y has shape \(3, 5\); it must be \(3, 2\)"),
        (dict(Y=jnp.ones((D3, C), jnp.float32)), "Y has dtype float32"),
    ],
)
def test_what_does_not_fit_is_named(options, words):
    objective, *_ = case()
    with pytest.raises(ProblemError, match=words):
        KnownValues(**{"problem": objective.problem, "Y": objective.Y, "rank": RANK, **options})
