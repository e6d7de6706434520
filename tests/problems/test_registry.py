"""The table of losses: a loss of one's own works everywhere, and the check finds wrong closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnreg
from attnreg.data.synthetic import attention_instance
from attnreg.fit.identifiability import identifiability
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems import (
    AttentionRegression,
    ProblemError,
    check_loss,
    find_loss,
    loss_names,
    losses,
    register_loss,
    unregister_loss,
)
from attnreg.rows import Curvature, RankTwo, RowTerms, kl, normalized
from attnreg.rows.masking import hide

EPS = float(np.finfo(np.float64).eps)


def log_cosh(s, b, mask=None):
    """`Σ log cosh(s − b)`: a robust relative of the linear loss, as a user would write it."""
    r = hide(s - b, mask, 0)
    slope = jnp.tanh(r)
    curvature = Curvature(hide(1 - slope**2, mask, 0))
    # log cosh r = log(eʳ + e⁻ʳ) − log 2, which is 0 where r was hidden.
    value = jnp.sum(jnp.logaddexp(r, -r) - jnp.log(jnp.asarray(2, s.dtype)), axis=-1)
    return RowTerms(value, slope, curvature, curvature)


def log_cosh_definition(X, A1, A2, B, mask=None):
    r = A1 @ X @ A2.T - B
    return jnp.sum(jnp.log(jnp.cosh(r)) if mask is None else jnp.where(mask, jnp.log(jnp.cosh(r)), 0))


@pytest.fixture
def mine():
    """A loss registered from outside the library, removed afterwards."""
    before = loss_names()
    yield register_loss("log_cosh", log_cosh, log_cosh_definition, fits="logits", check=True)
    unregister_loss("log_cosh")
    assert loss_names() == before


def test_a_loss_of_ones_own_is_solved_like_any_other(mine):
    assert loss_names()[-1] == mine.name
    problem, truth = attention_instance(jax.random.key(0), n=12, d=2, loss="log_cosh", dtype=jnp.float64)
    result = attnreg.solve(AttentionObjective(problem), tol=1e-10)
    assert bool(result.converged)
    np.testing.assert_allclose(result.params, truth, atol=1e-7)
    assert identifiability(problem).gauge == 0  # it fits logits: nothing is free


def test_its_hessian_is_that_of_its_definition(mine):
    rng = np.random.default_rng(0)
    A1, A2, X, B = (rng.normal(size=size) for size in ((4, 3), (5, 2), (3, 2), (4, 5)))
    mask = rng.random((4, 5)) < 0.7
    problem = AttentionRegression(A1, A2, B, loss="log_cosh", mask=mask)
    have = jax.jit(lambda p, X: AttentionObjective(p).hessian(X))(problem, X)
    want = jax.jit(jax.hessian(lambda X: log_cosh_definition(X, A1, A2, B, mask)))(X).reshape(6, 6)
    np.testing.assert_allclose(have, want, rtol=0, atol=64 * EPS * np.max(np.abs(want)))


def test_a_name_that_went_is_unknown_again():
    register_loss("log_cosh", log_cosh, log_cosh_definition, fits="logits")
    unregister_loss("log_cosh")
    with pytest.raises(ProblemError, match="loss is 'log_cosh'; it must be one of normalized"):
        find_loss("log_cosh")


@pytest.mark.parametrize("name", loss_names())
def test_shipped_losses_pass_their_own_check(name):
    report = check_loss(name)
    assert max(report[:3]) <= 100
    assert report.positive >= -100


def changed(**wrong):
    """The rows of kl with one field replaced by a function of the right ones."""

    def row(s, b, mask=None):
        terms = kl(s, b, mask)
        return terms._replace(**{name: change(terms, s) for name, change in wrong.items()})

    return row


def rank_two_lost(terms, s):
    return terms.hessian._replace(low=None)


def off_diagonal_lost(terms, s):
    return terms.hessian._replace(low=terms.hessian.low._replace(uu=terms.hessian.low.uu / 2))


def sign_wrong(terms, s):
    return Curvature(-terms.hessian.diag)


def not_a_number(terms, s):
    return Curvature(terms.hessian.diag / (s - s))


WRONG = {
    "value doubled": (
        changed(value=lambda t, s: 2 * t.value),
        r"value of a row is \S+ in closed form and \S+ by autodiff",
    ),
    "gradient halved": (changed(gradient=lambda t, s: t.gradient / 2), r"gradient\[\d\] of a row is"),
    "gradient not finite": (changed(gradient=lambda t, s: t.gradient / (s - s)), r"gradient\[\d\] of a row is nan|inf"),
    "rank two lost": (changed(hessian=rank_two_lost), r"hessian\[\d, \d\] of a row is"),
    "off diagonal wrong": (changed(hessian=off_diagonal_lost), r"hessian\[\d, \d\] of a row is"),
    "Gauss-Newton negative": (
        changed(gauss_newton=sign_wrong),
        r"gauss_newton has the eigenvalue -\S+; it must be pos",
    ),
    "Gauss-Newton not finite": (changed(gauss_newton=not_a_number), "gauss_newton has NaN or infinite entries"),
    "another loss": (normalized, "value of a row is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_check_finds_a_wrong_closed_form_and_registers_nothing(name):
    row, words = WRONG[name]
    with pytest.raises(ProblemError, match=words):
        register_loss("wrong", row, losses.kl_attention_regression, targets="nonnegative", check=True)
    assert "wrong" not in loss_names()


def test_a_rank_two_part_cannot_be_half_given():
    u = jnp.ones(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'u'"):
        Curvature(diag=u, u=u, uu=jnp.asarray(1.0))  # what once lost its rank-two part without a word
    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'v' and 'uv'"):
        RankTwo(u=u, uu=jnp.asarray(1.0))


def test_curvatures_are_pytrees_with_and_without_rank_two():
    for low in (None, RankTwo(*(jnp.ones((2, 3)),) * 2, *(jnp.ones(2),) * 2)):
        curvature = Curvature(jnp.ones((2, 3)), low)
        doubled = jax.tree.map(lambda x: 2 * x, curvature)
        assert jax.tree.structure(doubled) == jax.tree.structure(curvature)
        each = jax.vmap(lambda c: c.dense())(curvature)
        np.testing.assert_array_equal(jax.jit(Curvature.dense)(curvature), each)
        assert curvature._replace(diag=jnp.zeros((2, 3))).low is low
