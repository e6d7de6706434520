"""A self-attention layer in the factors of its heads: closed forms against autodiff of the plain loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.objectives.layer import LayerObjective
from attnreg.problems import ProblemError
from attnreg.problems.layer import LayerRegression, LayerWeights

# (documents, tokens, width, outputs, heads, rank, value rank, causal, masked)
CASES = {
    "one of everything": (1, 1, 1, 1, 1, 1, None, False, False),
    "one head, whole values": (3, 5, 4, 3, 1, 2, None, False, False),
    "causal": (3, 5, 4, 3, 1, 2, None, True, False),
    "heads with O, masked": (5, 4, 3, 2, 3, 2, 2, False, True),
    "heads without O, causal and masked": (3, 4, 3, 2, 2, 2, None, True, True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def draw(case, dtype=np.float64, block_documents=None):
    k, n, d, c, h, r, s, causal, masked = case
    rng = np.random.default_rng(0)
    A, B = (rng.normal(size=shape).astype(dtype) for shape in ((k, n, d), (k, n, c)))
    mask = None
    if masked:
        mask = rng.random((k, n, n)) < 0.6
        mask[0, 0] = False
    objective = LayerObjective(LayerRegression(A, B, mask, causal), h, r, s, block_documents)
    x, v = (objective.small_start(jax.random.key(i), 2.0) for i in range(2))
    return objective, x, v


def plain(objective, x):
    """The loss as anybody would write it, for one document at a time."""
    problem, total = objective.problem, 0.0
    for i in range(problem.sizes[0]):
        a, n = problem.A[i], problem.sizes[1]
        mask = jnp.ones((n, n), bool) if problem.mask is None else problem.mask[i % problem.mask.shape[0]]
        mask = mask & jnp.tril(jnp.ones((n, n), bool)) if problem.causal else mask
        out = jnp.zeros_like(problem.B[i])
        for j in range(objective.heads):
            e = jnp.where(mask, jnp.exp(a @ x.Q[j] @ (a @ x.K[j]).T), 0)
            weights = e / jnp.where(jnp.any(mask, axis=1), jnp.sum(e, axis=1), 1)[:, None]
            out = out + weights @ (a @ x.V[j]) @ (jnp.eye(out.shape[1], dtype=out.dtype) if x.O is None else x.O[j])
        total = total + jnp.sum(jnp.where(jnp.any(mask, axis=1)[:, None], out - problem.B[i], 0) ** 2)
    return total


def close(got, want, scale, tolerance):
    """Largest difference within `tolerance` times the largest entry of `scale`."""
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(scale))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size)


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@every_case
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_closed_forms_equal_autodiff(case, dtype):
    objective, x, v = draw(case, dtype, block_documents=2)
    tolerance = 200 * float(np.finfo(dtype).eps)

    @jax.jit
    def both(x, v):
        def loss(x):
            return plain(objective, x)

        value, gradient = jax.value_and_grad(loss)(x)
        product = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        cached, streamed = (objective.linearize(x, cache=cache) for cache in ("entries", "none"))
        mine = objective.value_and_grad(x)
        return (value, gradient, product), (*mine, cached.hvp(v), streamed.hvp(v), objective.value(x))

    (value, gradient, product), (mine, my_gradient, cached, streamed, alone) = both(x, v)
    size = (value, gradient, product)
    close((mine, alone), (value, value), size, tolerance)
    close(my_gradient, gradient, size, tolerance)
    close((cached, streamed), (product, product), size, tolerance)


@every_case
def test_gauss_newton_is_the_jacobian_squared(case):
    objective, x, v = draw(case, block_documents=2)
    live = jnp.asarray(np.ones(objective.problem.B.shape[:2], bool))
    if objective.problem.mask is not None:
        mask = np.asarray(objective.problem.mask)
        live = jnp.asarray((mask & np.tril(np.ones_like(mask[0])) if objective.problem.causal else mask).any(axis=2))

    @jax.jit
    def both(x, v):
        def outputs(x):
            return jnp.where(live[:, :, None], objective.predict(x), 0)

        # `predict` runs in a loop, which only forward mode passes: <Jv, Ju> for two directions.
        along = jax.jvp(outputs, (x,), (v,))[1]
        product = objective.linearize(x, gauss_newton=True).hvp(v)
        return 2 * jnp.vdot(along, along), sum(
            jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (v, product)), strict=True)
        )

    want, got = both(x, v)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_blocks_and_documents_add_up():
    case = CASES["heads with O, masked"]
    whole, x, _ = draw(case)
    problem = whole.problem
    for block in (1, 2, 3, 5):
        np.testing.assert_allclose(LayerObjective(problem, 3, 2, 2, block).value(x), whole.value(x), rtol=1e-14)
    parts = sum(
        float(
            LayerObjective(LayerRegression(problem.A[i], problem.B[i], jnp.asarray(problem.mask)[i]), 3, 2, 2).value(x)
        )
        for i in range(5)
    )
    np.testing.assert_allclose(parts, float(whole.value(x)), rtol=1e-13)


def test_a_padded_document_is_the_short_one():
    rng = np.random.default_rng(1)
    A, B = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 2))
    valid = np.ones((2, 6), bool)
    valid[:, 4:] = False
    padded = [np.concatenate([a, rng.normal(size=(2, 2, a.shape[2]))], axis=1) for a in (A, B)]
    short = LayerObjective(LayerRegression(A, B), rank=2)
    long = LayerObjective(LayerRegression(padded[0], padded[1], valid[:, :, None] & valid[:, None, :]), rank=2)
    x = short.small_start(jax.random.key(0), 1.0)
    close(long.value_and_grad(x), short.value_and_grad(x), short.value_and_grad(x), 1e-14)


@jax.jit
def solved(objective, x, v, damping):
    return objective.preconditioner(x).solve(v, relative=damping)


def test_the_value_block_of_the_preconditioner_is_exact():
    objective, x, v = draw(CASES["one head, whole values"])
    only = LayerWeights(jnp.zeros_like(v.Q), jnp.zeros_like(v.K), v.V)
    product = jax.jit(lambda o, x, v: o.linearize(x, gauss_newton=True).hvp(v))(objective, x, only)
    np.testing.assert_allclose(solved(objective, x, product, 1e-12).V, v.V, rtol=1e-6)


def test_the_preconditioner_evens_out_the_scales_of_inputs():
    # Conjugate gradients on inputs whose columns differ by a thousand: fewer products with it than without.
    objective, x, v = draw((6, 8, 5, 4, 1, 3, None, False, False))
    scale = jnp.asarray([1e-3, 1.0, 1.0, 1.0, 1e-2])
    moved = LayerObjective(LayerRegression(objective.problem.A * scale[None, None, :], objective.problem.B), 1, 3)
    x = jax.tree.map(lambda W: W / scale[None, :, None], x)

    @jax.jit
    def residuals(objective, x, v):
        line = objective.linearize(x, gauss_newton=True)
        preconditioner = objective.preconditioner(x)

        def error(M):
            b = line.hvp(v)
            s = jax.scipy.sparse.linalg.cg(line.hvp, b, maxiter=15, tol=0.0, M=M)[0]
            gap = jax.tree.map(jnp.subtract, s, v)
            return dot(gap, line.hvp(gap)) / dot(v, b)

        return error(lambda r: preconditioner.solve(r, relative=1e-3)), error(None)

    with_it, without = residuals(moved, x, jax.tree.map(lambda W: W / scale[None, :, None], v))
    assert float(with_it) < 0.5 * float(without)


def test_the_preconditioner_knows_a_token_of_the_last_text_only():
    """Whitened inputs: the column that one text has is as large as the others. No eigenvalue of P⁻¹H runs away."""
    rng = np.random.default_rng(3)
    A = rng.normal(size=(24, 12, 4))
    A[:, :, 3] = 0
    A[-1, :, 3] = rng.normal(size=12) * 24**0.5
    objective = LayerObjective(LayerRegression(A, rng.normal(size=(24, 12, 3))), 1, 2)
    x = objective.small_start(jax.random.key(0), 1.0)
    v = jax.tree.map(lambda W: jnp.zeros_like(W).at[:, 3].set(1.0), x)
    product = jax.jit(lambda o, x, v: o.linearize(x, gauss_newton=True).hvp(v))(objective, x, v)
    assert float(dot(product, solved(objective, x, product, 1e-6)) / dot(v, product)) < 10


def test_wrong_shapes_are_named():
    objective, x, _ = draw(CASES["heads with O, masked"])
    with pytest.raises(ProblemError, match=r"K has shape \(3, 3, 1\); it must be \(3, 3, 2\)"):
        objective.value(x._replace(K=x.K[:, :, :1]))
    with pytest.raises(ProblemError, match=r"B has shape .* its n is 4"):
        LayerRegression(jnp.ones((2, 5, 3)), jnp.ones((2, 4, 3)))
    with pytest.raises(ProblemError, match="O is a NoneType; it must be an array"):
        objective.value(x._replace(O=None))
    with pytest.raises(ProblemError, match="it must be one of 'auto', 'none', 'entries'"):
        objective.linearize(x, cache="blocks")
