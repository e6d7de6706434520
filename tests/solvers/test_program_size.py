"""What a first call compiles: bodies in the program of a solver, and its size. Compiling is most of a first call."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import Newton

K, N, D = 2, 12, 5


@pytest.fixture(scope="module")
def objective():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(K, N, D))
    return AttentionObjective(AttentionRegression(A, A, np.full((K, N, N), 1 / N)))


def lowered(solver, objective):
    """The text of the program before XLA sees it."""
    run = jax.jit(lambda objective, x: solver.run(objective, x))
    return run.lower(objective, jnp.zeros((D, D))).as_text()


def exponentials(text):
    """How often the program evaluates the rows of the loss: each body has one exponential of (rows, keys)."""
    return len(re.findall(rf"stablehlo.exponential .*tensor<\d+x{N}xf64>", text))


def test_newton_holds_one_hessian_and_one_gradient_beside_that_of_the_start(objective):
    plain = exponentials(lowered(Newton(warmup=0), objective))
    one = exponentials(jax.jit(lambda o, x: o.value_and_grad(x)).lower(objective, jnp.zeros((D, D))).as_text())
    assert one == 1
    # The start's gradient, the loop's gradient, the Hessian; the warm-up adds its approximation and nothing else.
    assert plain == 3
    assert exponentials(lowered(Newton(), objective)) == 4


def test_the_programs_keep_their_size(objective):
    """In lines of StableHLO; before the bodies were shared Newton had 3,000."""
    assert lowered(Newton(), objective).count("\n") < 1850
    assert lowered(Newton(warmup=0), objective).count("\n") < 1450
