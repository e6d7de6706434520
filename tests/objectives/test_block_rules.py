"""The rule of an accelerator and that of a CPU give the same numbers, for every objective that streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from attnreg.lift.streaming import RULES, BlockRule
from attnreg.objectives import (
    AttentionObjective,
    FactoredObjective,
    LayerObjective,
    OneLayerObjective,
    StackedObjective,
)
from attnreg.problems import AttentionRegression, LayerRegression, OneLayerRegression, ProblemError, Rotary

K, N, D = 3, 8, 2
# All three documents in one block, two and then one of them again, and a few rows of one document.
WHOLE, PAIRS, ROWS = RULES["gpu"], BlockRule(2 * N * N, together=True), BlockRule(3 * N, together=True)


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def objectives():
    A, outputs = rows(0, K, N, D), rows(1, K, N, 3)
    maps = np.asarray(jax.nn.softmax(jnp.asarray(rows(2, K, N, N)), axis=-1))
    plain = AttentionRegression(
        A, rows(3, K, N, D), maps, mask=rows(4, K, N, N) > -1, causal=True, weight=0.3, ridge=0.1
    )
    turned = AttentionRegression(A, A, maps, rotary=Rotary(2), loss="kl")
    return {
        "attention": AttentionObjective(plain),
        "factored": FactoredObjective(plain, 1),
        "rotary": FactoredObjective(turned, 2),
        "stacked": StackedObjective(turned),
        "one layer": OneLayerObjective(OneLayerRegression(A, A, A, outputs, ridge=0.1)),
        "layer": LayerObjective(LayerRegression(A, outputs), heads=2, rank=1),
    }


@jax.jit
def quantities(objective):
    """Value, gradient, products (exact and Gauss–Newton, with and without a cache) and the preconditioned gradient."""
    flat, unravel = ravel_pytree(objective.zeros())
    x, v = (unravel(jnp.asarray(rows(seed, flat.size), flat.dtype)) for seed in (5, 6))
    value, gradient = objective.value_and_grad(x)
    products = [
        objective.linearize(x, gauss_newton=gauss_newton, cache=cache).hvp(v)
        for gauss_newton in (False, True)
        for cache in ("none", "entries")
        if cache in objective.CACHES
    ]
    solved = objective.preconditioner(x).solve(gradient, relative=jnp.asarray(0.1, flat.dtype))
    return [value, *(ravel_pytree(tree)[0] for tree in (gradient, *products, solved))]


def with_rule(objective, rule):
    name = "block_documents" if isinstance(objective, LayerObjective) else "block_rows"
    return dataclasses.replace(objective, **{name: rule})


@pytest.mark.parametrize("name", list(objectives()))
@pytest.mark.parametrize("rule", [WHOLE, PAIRS, ROWS])
def test_a_rule_changes_no_number(name, rule):
    objective = objectives()[name]
    for ours, want in zip(quantities(with_rule(objective, rule)), quantities(objective), strict=True):
        np.testing.assert_allclose(ours, want, rtol=0, atol=1e3 * np.finfo(float).eps * (1 + np.max(np.abs(want))))


def test_one_trip_makes_no_loop():
    """Eight documents of 64 rows: a loop of eight trips on a CPU, none on an accelerator."""
    A = jnp.ones((8, 64, 3))
    for rule, loops in ((RULES["cpu"], 1), (RULES["gpu"], 0)):
        objective = AttentionObjective(AttentionRegression(A, A, jnp.ones((8, 64, 64)) / 64), block_rows=rule)
        text = jax.jit(lambda o, X: o.value_and_grad(X)).lower(objective, objective.zeros()).as_text()
        assert text.count("stablehlo.while") == loops


def test_the_rule_is_part_of_the_objective_and_checked():
    A = jnp.ones((1, 2, 2))
    problem = AttentionRegression(A, A, A)
    assert AttentionObjective(problem).block_rows == RULES[jax.default_backend()]
    with pytest.raises(ProblemError, match="block_rows"):
        AttentionObjective(problem, block_rows="gpu")  # type: ignore[arg-type]
