"""Instances and programs of the contract every loss passes; see `test_losses_contract.py`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.objectives.attention import AttentionObjective
from attnreg.problems import find_loss, losses
from attnreg.problems.attention import AttentionRegression, Teacher
from tests.oracles import lifted, rows, scale

# (documents, n, m, d1, d2) and rows per block: uneven blocks, and each degenerate size.
SHAPES = {
    "uneven blocks": ((2, 5, 4, 3, 2), 2),
    "all ones": ((1, 1, 1, 1, 1), None),
    "one row": ((1, 1, 7, 1, 3), None),
    "one key": ((2, 3, 1, 2, 2), 2),
    "more features than rows": ((1, 2, 3, 5, 4), 1),
}
TARGETS = ("truth", "uniform", "one-hot", "simplex", "any")
SIZES = (1e-6, 1e-2, 1.0, 30.0, 1e3)


class Case(NamedTuple):
    """One instance: data for the oracle, the same data as a problem, a point X and a direction V."""

    data: lifted.Data
    problem: AttentionRegression
    X: np.ndarray
    V: np.ndarray
    block_rows: int | None


def largest_logit(loss, dtype) -> float:
    """Logits the loss can take without overflow: exp(2s) must stay in three quarters of the exponent range."""
    if loss in ("normalized", "linear", "kl"):
        return np.inf
    return 0.3 * float(np.log(np.finfo(dtype).max))


def draw_targets(rng, kind, loss, S):
    """Targets of one kind for logits S (k, n, m)."""
    k, n, m = S.shape
    if kind == "truth":
        each = [[truth(loss, S[i, j]) for j in range(n)] for i in range(k)]
        return np.array(each)
    if kind == "uniform":
        return np.full(S.shape, 1 / m)
    if kind == "one-hot":
        return np.eye(m)[rng.integers(0, m, (k, n))]
    if kind == "simplex":
        return rng.dirichlet(np.ones(m), (k, n))
    any_real = rng.normal(size=S.shape)
    return np.abs(any_real) if find_loss(loss).targets == "nonnegative" else any_real


def truth(loss, s):
    """The target at which a row's loss is zero."""
    if loss == "linear":
        return s
    g = np.exp(s - np.max(s)) if loss in ("normalized", "kl") else rows.activation(loss, s)[0]
    return g / np.sum(g)


def draw(
    seed, loss, *, shape="uneven blocks", size=1.0, targets="simplex", dtype=np.float64, duplicated=False, allowed=0.8,
    weight=0.5, ridge=0.3, empty_rows=False,
) -> Case:  # fmt: skip
    """A random case, largest logit about `size`; always with mask, weight and ridge, so one program serves all."""
    rng = np.random.default_rng(seed)
    (k, n, m, d1, d2), block_rows = SHAPES[shape]
    A1, A2, X, V = (rng.normal(size=s) for s in ((k, n, d1), (k, m, d2), (d1, d2), (d1, d2)))
    if duplicated:
        A1[:, 1:], A2[:, 1:] = A1[:, :1], A2[:, :1]
    X *= min(size, largest_logit(loss, dtype)) / np.max(np.abs(A1 @ X @ A2.swapaxes(1, 2)))
    A1, A2, X, V = (x.astype(dtype) for x in (A1, A2, X, V))
    B = draw_targets(rng, targets, loss, lifted.extended(A1) @ X @ A2.swapaxes(1, 2)).astype(dtype)
    mask = rng.random((k, n, m)) < allowed
    if not empty_rows:
        mask[..., 0] = True
    W = (weight * rng.normal(size=(k, n, m))).astype(dtype)
    data = lifted.Data(A1, A2, B, loss, mask, W, float(dtype(ridge)))
    problem = AttentionRegression(A1, A2, B, loss=loss, mask=mask, weight=W, ridge=ridge)
    return Case(data, problem, X, V, block_rows)


def draw_teacher(seed, loss, *, n=5, d1=3, d2=2, r=2) -> Case:
    """A causal case with `Teacher` targets and no stored mask, weight or ridge."""
    rng = np.random.default_rng(seed)
    A1, A2, X, V, Q, K = (rng.normal(size=s) for s in ((n, d1), (n, d2), (d1, d2), (d1, d2), (n, r), (n, r)))
    mask = np.tri(n, dtype=bool)
    S = np.where(mask, lifted.extended(Q) @ lifted.extended(K).T, -np.inf)
    B = np.stack([rows.softmax(s) for s in S])
    data = lifted.Data(A1[None], A2[None], B[None], loss, mask[None])
    return Case(data, AttentionRegression(A1, A2, Teacher(Q, K), loss=loss, causal=True), X, V, 2)


@functools.partial(jax.jit, static_argnames="block_rows")
def closed_forms(problem, X, V, block_rows=None) -> dict:
    """Every closed form of the objective."""
    objective = AttentionObjective(problem, block_rows)
    value, gradient, hessian = objective.value_grad_hessian(X)
    products = {f"hvp, cache {c}": objective.linearize(X, cache=c).hvp(V) for c in ("none", "entries", "blocks")}
    return {
        "value": value,
        "value alone": objective.value(X),
        "gradient": gradient,
        "hessian": hessian,
        "gauss_newton": objective.gauss_newton(X),
        "diagonal": objective.hessian_diagonal(X),
        "gauss_newton hvp": objective.hvp(X, V, gauss_newton=True),
        **products,
    }


@functools.partial(jax.jit, static_argnames="block_rows")
def second_order(problem, X, V, block_rows=None) -> dict:
    """Value, gradient, Hessian and its product with V: a smaller program than `closed_forms`."""
    objective = AttentionObjective(problem, block_rows)
    value, gradient, hessian = objective.value_grad_hessian(X)
    return {"value": value, "gradient": gradient, "hessian": hessian, "hvp, cache none": objective.hvp(X, V)}


@jax.jit
def differentiated(problem, X, V) -> dict:
    """The same quantities by automatic differentiation of `attnreg.problems.losses`: reverse, forward over reverse."""
    definition = find_loss(problem.loss).definition

    def document(X, A1, A2, B, mask, weight):
        return definition(X, A1, A2, B, mask) + losses.logit_regularizer(X, A1, A2, weight, mask)

    def loss(X):
        arrays = (problem.A1, problem.A2, problem.B, problem.mask, problem.weight)
        return jnp.sum(jax.vmap(functools.partial(document, X))(*arrays)) + problem.ridge * jnp.sum(X * X) / 2

    value, gradient = jax.value_and_grad(loss)(X)
    product = jax.jvp(jax.grad(loss), (X,), (V,))[1]
    return {
        "value": value,
        "gradient": gradient,
        "hessian": jax.hessian(loss)(X).reshape(X.size, X.size),
        "hvp, cache none": product,
    }


def expectations(case: Case, eps) -> dict:
    """Quantity name → (exact value, natural scale), both flat or square."""
    exact, unit = lifted.evaluate(case.data, case.X), scale.natural(case.data, case.X, eps)
    v = lifted.extended(case.V).ravel()
    product, product_unit = exact.hessian @ v, unit.hessian @ np.abs(v)
    pairs = {name: (getattr(exact, name), getattr(unit, name)) for name in exact._fields}
    pairs["value alone"] = pairs["value"]
    pairs["diagonal"] = np.diag(exact.hessian), np.diag(unit.hessian)
    pairs["gauss_newton hvp"] = exact.gauss_newton @ v, unit.gauss_newton @ np.abs(v)
    return pairs | {f"hvp, cache {cache}": (product, product_unit) for cache in ("none", "entries", "blocks")}


def errors(got: dict, case: Case, eps) -> dict:
    """Quantity name → worst error in eps × natural scale."""
    pairs = expectations(case, eps)
    return {
        name: scale.worst(np.reshape(value, np.shape(pairs[name][0])), *pairs[name], eps) for name, value in got.items()
    }
