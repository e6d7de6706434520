"""Heads with rotary positions, scale and soft cap, from their maps: closed forms against autodiff of complex logits."""

import contextlib
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift.rotation import nearest_factors, stacked_of
from attnreg.objectives import AttentionObjective, FactoredObjective, Factors, StackedObjective
from attnreg.problems import AttentionRegression, ProblemError, Rotary, find_loss
from tests.objectives.test_layer import close, dot
from tests.oracles import rotary as oracle


class Case(NamedTuple):
    """Sizes (documents, queries, keys, d1, d2, rank) and what is asked of the head."""

    sizes: tuple[int, ...]
    width: int
    layout: str = "half"
    loss: str = "normalized"
    placed: bool = False
    causal: bool = False
    masked: bool = False
    scale: float | None = None
    soft_cap: float | None = None


CASES = {
    "one of everything": Case((1, 1, 1, 1, 1, 2), 2),
    "half, causal": Case((2, 5, 5, 4, 3, 4), 4, causal=True),
    "interleaved, partial, masked, placed": Case((3, 5, 4, 4, 3, 5), 4, "interleaved", "kl", placed=True, masked=True),
    "capped and scaled": Case((2, 5, 5, 3, 3, 3), 2, "half", "rescaled", causal=True, scale=0.7, soft_cap=1.5),
}
SLOW = [("half, causal", np.float64), ("half, causal", np.float32), ("capped and scaled", np.float64)]
RUNS = [
    ("one of everything", np.float64), ("interleaved, partial, masked, placed", np.float64),
    ("capped and scaled", np.float32),
    *[pytest.param(*run, marks=pytest.mark.slow) for run in SLOW],
]  # fmt: skip


def draw(case, dtype=np.float64):
    """The problem, the positions that the oracle is given, a point and a direction."""
    k, n, m, d1, d2, r = case.sizes
    rng = np.random.default_rng(0)
    A1, A2, B = rng.normal(size=(k, n, d1)), rng.normal(size=(k, m, d2)), rng.dirichlet(np.ones(m), (k, n))
    where = (rng.integers(0, 9, (k, n)), rng.integers(0, 9, (m,))) if case.placed else (None, None)
    mask = None
    if case.masked:
        mask = rng.random((k, n, m)) < 0.6
        mask[0, 0] = False
    rotary = Rotary(case.width, 50.0, case.layout, positions=where[0], key_positions=where[1])
    problem = AttentionRegression(
        *(x.astype(dtype) for x in (A1, A2, B)), case.loss, mask, case.causal, rotary=rotary,
        scale=case.scale, soft_cap=case.soft_cap, weight=np.full((n, m), 0.3, dtype),
    )  # fmt: skip
    x, v = (Factors(*(jnp.asarray(rng.normal(size=(d, r)), dtype) for d in (d1, d2))) for _ in range(2))
    return problem, where, x, v


@contextlib.contextmanager
def as_numpy():
    """Complex and real numbers mix as in NumPy: the oracle may, the closed forms may not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@as_numpy()
def rows_of_logits(case, problem, where, x):
    """The logits (k, n, m) of factors, with complex numbers."""
    theta = oracle.frequencies(case.width, 50.0).astype(problem.dtype)
    q, k = problem.A1 @ x.Q, problem.A2 @ x.K
    return oracle.logits(q, k, theta, case.layout, *where).astype(problem.dtype)


@as_numpy()
def plain(case, problem, S):
    """The loss of logits S as anybody would write it, document by document."""
    (k, n, m, *_), total = problem.sizes, 0.0
    for i in range(k):
        mask = jnp.ones((n, m), bool) if problem.mask is None else problem.mask[i % problem.mask.shape[0]]
        mask = mask & jnp.tril(mask) if case.causal else mask
        s = S[i] * (1.0 if case.scale is None else case.scale)
        s = s if case.soft_cap is None else case.soft_cap * jnp.tanh(s / case.soft_cap)
        eyes = (jnp.eye(n, dtype=s.dtype), jnp.eye(m, dtype=s.dtype))
        total = total + find_loss(case.loss).definition(s, *eyes, problem.B[i], mask)
        total = total + jnp.sum(jnp.where(mask, (0.3 * S[i]) ** 2, 0)) / 2
    return total


@functools.partial(jax.jit, static_argnums=(0, 1))
def both(case, where, problem, x, v):
    where = tuple(None if p is None else np.array(p) for p in where)

    def loss(x):
        return plain(case, problem, rows_of_logits(case, problem, where, x))

    objective = FactoredObjective(problem, x.Q.shape[1], block_rows=2)
    cached, streamed = (objective.linearize(x, cache=cache) for cache in ("entries", "none"))
    mine = objective.value_and_grad(x)
    wanted = (*jax.value_and_grad(loss)(x), jax.jvp(jax.grad(loss), (x,), (v,))[1])
    return wanted, (*mine, cached.hvp(v), streamed.hvp(v), objective.value(x), objective.rounding(x))


@pytest.mark.parametrize(("name", "dtype"), RUNS, ids=str)
def test_factors_equal_autodiff(name, dtype):
    case = CASES[name]
    problem, where, x, v = draw(case, dtype)
    frozen = tuple(None if p is None else tuple(map(tuple, p)) if p.ndim == 2 else tuple(p.tolist()) for p in where)
    (value, gradient, product), (mine, my_gradient, cached, streamed, alone, rounding) = both(
        case, frozen, problem, x, v
    )
    tolerance = 200 * float(np.finfo(dtype).eps)
    size = (value, gradient, product)
    close((mine, alone), (value, value), size, tolerance)
    close(my_gradient, gradient, size, tolerance)
    close((cached, streamed), (product, product), size, tolerance)
    assert 0 <= float(rounding) <= 1e4 * float(np.finfo(dtype).eps) * (1 + float(jnp.sqrt(dot(gradient, gradient))))


@jax.jit
def dense(problem, x):
    objective = FactoredObjective(problem, x.Q.shape[1], block_rows=2)
    return objective.value_grad_hessian(x, gauss_newton=True)[2], objective.preconditioner(x)


def test_gauss_newton_is_the_jacobian_squared_and_the_preconditioner_has_its_partial_traces():
    case = CASES["half, causal"]._replace(soft_cap=2.0)
    problem, where, x, _ = draw(case)
    problem = AttentionRegression(
        problem.A1, problem.A2, problem.B, causal=True, rotary=Rotary(4, 50.0), soft_cap=problem.soft_cap
    )

    @as_numpy()
    def maps(x):
        S = case.soft_cap * jnp.tanh(rows_of_logits(case, problem, where, x) / case.soft_cap)
        return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(S.shape, bool)), S, -jnp.inf), axis=-1).ravel()

    J = jnp.concatenate([block.reshape(block.shape[0], -1) for block in jax.jit(jax.jacobian(maps))(x)], axis=1)
    H, preconditioner = dense(problem, x)
    np.testing.assert_allclose(H, 2 * J.T @ J, atol=1e-13 * float(jnp.max(jnp.abs(H))))
    d, r = x.Q.shape
    block, mine = np.asarray(H[: d * r, : d * r]).reshape(d, r, d, r), preconditioner.parts.Q
    mine = jax.jit(jax.vmap(mine.apply))(jnp.eye(d * r).reshape(d * r, d, r)).reshape(d, r, d, r)
    for sum_over in ("arbr->ab", "aras->rs"):
        np.testing.assert_allclose(np.einsum(sum_over, mine), np.einsum(sum_over, block), atol=1e-12 * np.max(block))


@pytest.mark.slow
def test_the_preconditioner_saves_products():
    # Inputs whose columns differ by a thousand: conjugate gradients with it and without.
    rng = np.random.default_rng(1)
    scale = np.array([1e-3, 1.0, 1.0, 0.1, 1e-2, 1.0])
    A = rng.normal(size=(6, 12, 6)) * scale
    problem = AttentionRegression(A, A, rng.dirichlet(np.ones(12), (6, 12)), "kl", causal=True, rotary=Rotary(4, 50.0))
    x, v = (Factors(*(jnp.asarray(rng.normal(size=(6, 6)) / scale[:, None]) for _ in "QK")) for _ in range(2))

    @jax.jit
    def errors(problem, x):
        objective = FactoredObjective(problem, 6)
        line, preconditioner = objective.linearize(x, gauss_newton=True), objective.preconditioner(x)
        b = line.hvp(v)

        def error(M):
            gap = jax.tree.map(jnp.subtract, jax.scipy.sparse.linalg.cg(line.hvp, b, maxiter=15, tol=0.0, M=M)[0], v)
            return dot(gap, line.hvp(gap)) / dot(v, b)

        return error(lambda r: preconditioner.solve(r, relative=1e-3)), error(None)

    with_it, without = errors(problem, x)
    assert float(with_it) < 0.3 * float(without)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half, causal", "interleaved, partial, masked, placed"])
def test_the_stacked_unknown_has_the_logits_of_the_factors_and_its_closed_forms_equal_autodiff(name):
    case = CASES[name]
    problem, where, x, v = draw(case)
    rest = x.Q.shape[1] > case.width
    objective = StackedObjective(problem, rest, block_rows=2)
    turns = problem.rotary

    @jax.jit
    def run(problem, x, v):
        Z, V = (stacked_of(turns, *part, rest=rest) for part in (x, v))

        @as_numpy()
        def logits(Z):
            # Of a frequency: Re e^{i(α−β)} a_iᵀ(U + iW)a_j; the tables of the problem are checked above.
            p = case.width // 2
            turn = (turns.cos_q + 1j * turns.sin_q)[:, :, None, :] * (turns.cos_k - 1j * turns.sin_k)[:, None, :, :]
            inner = jnp.einsum("kna,fab,kmb->knmf", problem.A1, Z[:p] + 1j * Z[p : 2 * p], problem.A2)
            S = jnp.sum((turn * inner).real, axis=3)
            return S + problem.A1 @ Z[2 * p] @ problem.A2.swapaxes(1, 2) if rest else S

        def loss(Z):
            return plain(case, problem, logits(Z)) + problem.ridge * jnp.sum(Z**2) / 2

        line, streamed = objective.linearize(Z, cache="entries"), objective.linearize(Z, cache="none")
        mine = (objective.value(Z), *objective.value_and_grad(Z), line.hvp(V), streamed.hvp(V))
        nearest = stacked_of(turns, *nearest_factors(turns, Z, x.Q.shape[1]), rest=rest)
        product = jax.jvp(jax.grad(loss), (Z,), (V,))[1]
        wanted = (loss(Z), loss(Z), jax.grad(loss)(Z), product, product)
        return mine, wanted, logits(Z), nearest, Z

    mine, wanted, S, nearest, Z = run(problem, x, v)
    close(mine, wanted, wanted, 1e-13)
    close(S, rows_of_logits(case, problem, where, x), S, 1e-13)
    close(nearest, Z, Z, 1e-12)


def test_what_cannot_be_is_refused():
    problem = draw(CASES["half, causal"])[0]
    with pytest.raises(ProblemError, match=r"the logits of a rotary head are not A1 X A2ᵀ for any X; take its factors"):
        AttentionObjective(problem)
    with pytest.raises(ProblemError, match=r"rank is 3, but rotary.width is 4"):
        FactoredObjective(problem, 3)
