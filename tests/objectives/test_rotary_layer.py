"""A layer with rotary positions, shared keys, scale and soft cap: closed forms against autodiff of the plain loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.layer import LayerObjective
from attnreg.problems import ProblemError, Rotary
from attnreg.problems.layer import LayerRegression, LayerWeights
from tests.objectives.test_layer import close, dot
from tests.objectives.test_rotary import as_numpy
from tests.oracles import rotary as oracle


class Case(NamedTuple):
    """Sizes (documents, tokens, width, outputs, heads, key heads, rank, value rank) and what is asked of the layer."""

    sizes: tuple[int | None, ...]
    width: int
    layout: str = "half"
    placed: bool = False
    causal: bool = False
    masked: bool = False
    scale: float | None = None
    soft_cap: float | None = None


CASES = {
    "one of everything": Case((1, 1, 1, 1, 1, None, 2, None), 2),
    "shared, causal, capped": Case((3, 5, 4, 3, 4, 2, 4, 2), 4, causal=True, scale=0.7, soft_cap=1.5),
    "shared, interleaved, partial, masked, placed, without O": Case(
        (3, 4, 3, 2, 2, 1, 3, None), 2, "interleaved", placed=True, masked=True
    ),
    "rotary alone": Case((3, 5, 4, 3, 2, None, 4, 3), 4, causal=True),
}
SLOW = [
    ("shared, interleaved, partial, masked, placed, without O", np.float64),
    ("shared, causal, capped", np.float32),
    ("rotary alone", np.float64),
    ("rotary alone", np.float32),
]
RUNS = [(name, np.float64) for name in list(CASES)[:2]]
RUNS += [pytest.param(*run, marks=pytest.mark.slow) for run in SLOW]


def draw(case, dtype=np.float64, block_documents=2):
    k, n, d, c, h, g, r, s = case.sizes
    rng = np.random.default_rng(0)
    A, B = (rng.normal(size=shape).astype(dtype) for shape in ((k, n, d), (k, n, c)))
    mask = None
    if case.masked:
        mask = rng.random((k, n, n)) < 0.6
        mask[0, 0] = False
    positions = rng.integers(0, 9, (k, n)) if case.placed else None
    rotary = Rotary(case.width, 50.0, case.layout, positions=positions)
    problem = LayerRegression(A, B, mask, case.causal, rotary, case.scale, case.soft_cap)
    objective = LayerObjective(problem, h, r, s, block_documents, g)
    x, v = (objective.small_start(jax.random.key(i), 2.0) for i in range(2))
    return objective, positions, x, v


def outputs_of(case, problem, positions, x):
    """The outputs (k, n, c) as anybody would write them, head by head, and which rows count (k, n)."""
    k, n = problem.sizes[:2]
    h, g = len(x.Q), len(x.K)
    theta = oracle.frequencies(case.width, 50.0).astype(problem.dtype)
    mask = jnp.ones((k, n, n), bool) if problem.mask is None else jnp.broadcast_to(problem.mask, (k, n, n))
    mask = mask & jnp.tril(mask) if case.causal else mask
    live = jnp.any(mask, axis=2)
    out = jnp.zeros(problem.B.shape, problem.dtype)
    for j in range(h):
        mine = j // (h // g)
        S = oracle.logits(problem.A @ x.Q[j], problem.A @ x.K[mine], theta, case.layout, positions, positions)
        S = S.astype(problem.dtype) * (1 if case.scale is None else case.scale)
        S = S if case.soft_cap is None else case.soft_cap * jnp.tanh(S / case.soft_cap)
        # Without the shift, second derivatives by autodiff overflow in float32: squares of exp(34).
        top = jax.lax.stop_gradient(jnp.max(S, axis=2, keepdims=True))
        e = jnp.where(mask, jnp.exp(S - top), 0)
        F = e / jnp.where(live, jnp.sum(e, axis=2), 1)[:, :, None]
        z = F @ (problem.A @ (x.V[j] if x.O is None else x.V[mine]))
        out = out + (z if x.O is None else z @ x.O[j])
    return out, live


def both(case, objective, positions, x, v):
    """What autodiff of the plain loss says, and what the closed forms say."""

    def loss(x):
        with as_numpy():
            out, live = outputs_of(case, objective.problem, positions, x)
            return jnp.sum(jnp.where(live[:, :, None], out - objective.problem.B, 0) ** 2)

    def moved(v):
        def outputs(x):
            with as_numpy():
                out, live = outputs_of(case, objective.problem, positions, x)
                return jnp.where(live[:, :, None], out, 0)

        return jax.jvp(outputs, (x,), (v,))[1]

    cached, streamed = (objective.linearize(x, cache=cache) for cache in ("entries", "none"))
    gauss_newton = dot(v, objective.linearize(x, gauss_newton=True).hvp(v))
    wanted = (*jax.value_and_grad(loss)(x), jax.jvp(jax.grad(loss), (x,), (v,))[1], 2 * jnp.sum(moved(v) ** 2))
    return wanted, (*objective.value_and_grad(x), cached.hvp(v), streamed.hvp(v), gauss_newton, objective.value(x))


@pytest.mark.parametrize(("name", "dtype"), RUNS, ids=str)
def test_closed_forms_equal_autodiff(name, dtype):
    objective, positions, x, v = draw(CASES[name], dtype)
    run = jax.jit(lambda o, x, v: both(CASES[name], o, positions, x, v))
    (value, gradient, product, squared), (mine, my_gradient, cached, streamed, gauss_newton, alone) = run(
        objective, x, v
    )
    tolerance = 200 * float(np.finfo(dtype).eps)
    size = (value, gradient, product)
    close((mine, alone), (value, value), size, tolerance)
    close(my_gradient, gradient, size, tolerance)
    close((cached, streamed), (product, product), size, tolerance)
    close(gauss_newton, squared, squared, tolerance)


def test_a_bias_is_the_row_of_a_column_of_ones():
    # Qwen2 adds biases to queries, keys and values before they turn; a column of ones says the same.
    rng = np.random.default_rng(2)
    A = rng.normal(size=(2, 6, 3))
    Q, K, V = (rng.normal(size=(1, 3, w)) for w in (4, 4, 2))
    q0, k0, v0 = (rng.normal(size=w) for w in (4, 4, 2))
    S = oracle.logits(A @ Q[0] + q0, A @ K[0] + k0, oracle.frequencies(4, 50.0))
    wanted = oracle.softmax(S, np.tril(np.ones((6, 6), bool))) @ (A @ V[0] + v0)
    ones = np.concatenate([A, np.ones((2, 6, 1))], axis=2)
    weights = LayerWeights(*(jnp.concatenate([W, b[None, None]], axis=1) for W, b in ((Q, q0), (K, k0), (V, v0))))
    problem = LayerRegression(ones, wanted, causal=True, rotary=Rotary(4, 50.0))
    assert float(LayerObjective(problem, 1, 4).value(weights)) <= 1e-28 * float(np.sum(wanted**2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shared, causal, capped", "rotary alone"])
def test_the_preconditioner_saves_products(name):
    case = CASES[name]
    objective, _, x, v = draw(case._replace(sizes=(6, 12, *case.sizes[2:])))
    scale = jnp.asarray([1e-3, 1.0, 0.1, 1e-2])
    problem = objective.problem
    moved = LayerRegression(
        problem.A * scale[None, None, :], problem.B, causal=True, rotary=Rotary(4, 50.0),
        scale=problem.scale, soft_cap=problem.soft_cap,
    )  # fmt: skip
    objective = LayerObjective(moved, objective.heads, objective.rank, objective.value_rank, None, objective.key_heads)

    def read(W):
        return W / scale[None, :, None]

    x, v = (part._replace(Q=read(part.Q), K=read(part.K), V=read(part.V)) for part in (x, v))

    @jax.jit
    def residuals(objective, x, v):
        line, preconditioner = objective.linearize(x, gauss_newton=True), objective.preconditioner(x)
        b = line.hvp(v)

        def error(M):
            gap = jax.tree.map(jnp.subtract, jax.scipy.sparse.linalg.cg(line.hvp, b, maxiter=15, tol=0.0, M=M)[0], v)
            return dot(gap, line.hvp(gap)) / dot(v, b)

        return error(lambda r: preconditioner.solve(r, relative=1e-3)), error(None)

    with_it, without = residuals(objective, x, v)
    assert float(with_it) < 0.5 * float(without)


def test_what_does_not_fit_is_refused():
    problem = draw(CASES["rotary alone"])[0].problem
    with pytest.raises(ProblemError, match="key_heads is 2; it must divide heads, 3: equally many queries share each"):
        LayerObjective(problem, 3, 4, key_heads=2)
    with pytest.raises(ProblemError, match=r"rank is 3, but rotary.width is 4"):
        LayerObjective(problem, 2, 3)
