"""Costs that docstrings claim, read off the compiled program: memory, flops, loops, recompilations.

XLA counts the body of a loop once, so the flops of a streamed program are those of one block of rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.lift.streaming import RULES, cut
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems import AttentionRegression, SoftmaxRegression, Teacher

FLOAT = 8
CPU = RULES["cpu"]


def abstract(tree, sizes):
    """A small problem's tree with its axes resized: shapes only, nothing is allocated."""

    def resize(leaf):
        return jax.ShapeDtypeStruct(tuple(sizes.get(axis, axis) for axis in leaf.shape), leaf.dtype)

    return jax.tree.map(resize, tree)


def teacher_problem(n, *, m=None, d1=32, d2=32):
    """The shapes of a problem with `Teacher` targets of rank 8. The small axes are distinct primes, to be resized."""
    small = AttentionRegression(np.ones((2, 3)), np.ones((5, 7)), Teacher(np.ones((2, 11)), np.ones((5, 11))))
    return abstract(small, {2: n, 5: m or n, 3: d1, 7: d2, 11: 8})


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def unknown(problem):
    return jax.ShapeDtypeStruct(problem.shape, jnp.float64)


def value_and_grad(problem, X):
    return AttentionObjective(problem).value_and_grad(X)


def hvp(problem, X):
    return AttentionObjective(problem).hvp(X, X)


def hessian(problem, X):
    return AttentionObjective(problem).value_grad_hessian(X)


def temporaries(program) -> int:
    return program.memory_analysis().temp_size_in_bytes


def loops(program) -> int:
    return program.as_text().count(" while(")


@pytest.mark.parametrize("n", [2048, 4096, 16384])
@pytest.mark.parametrize("function", [value_and_grad, hvp])
def test_no_n_by_m_temporary(function, n):
    problem = teacher_problem(n)
    used = temporaries(compiled(function, problem, unknown(problem)))
    # A dozen arrays of one block, and a few of the data's size.
    assert used <= 12 * CPU.entries * FLOAT + 8 * n * 32 * FLOAT
    assert n < 4096 or used < n * n * FLOAT / 4


def test_autodiff_does_need_n_by_m_temporaries():
    """The same measurement sees the arrays it is meant to see."""
    n = 2048

    def plain(A1, A2, B, X):
        return jnp.sum((jax.nn.softmax(A1 @ X @ A2.T, axis=-1) - B) ** 2)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float64) for s in ((n, 32), (n, 32), (n, n), (32, 32))]
    assert temporaries(compiled(jax.value_and_grad(plain, 3), *shapes)) >= n * n * FLOAT


def test_hessian_memory_is_a_block_and_two_squares():
    n, d = 2048, 32
    problem = teacher_problem(n)
    rows, packed = cut(1, n, n, CPU).rows, d * (d + 1) // 2
    used = temporaries(compiled(hessian, problem, unknown(problem)))
    # The Khatri–Rao square of the keys, blocks of rows, and the Hessian packed and unpacked (with its transposition).
    allowed = n * packed + 16 * CPU.entries + 4 * rows * packed + 3 * packed**2 + 4 * d**4
    assert used <= allowed * FLOAT


def test_one_row_with_a_million_keys_forms_no_khatri_rao_square():
    m, d = 10**6, 50
    problem = abstract(SoftmaxRegression(np.ones((2, 3)), np.ones(2)), {2: m, 3: d})
    square = m * d * (d + 1) // 2 * FLOAT
    program = compiled(hessian, problem, unknown(problem))
    assert temporaries(program) <= 16 * m * FLOAT
    assert temporaries(program) <= square / 50
    assert temporaries(compiled(value_and_grad, problem, unknown(problem))) <= 10 * m * FLOAT


def test_wide_unknowns_keep_no_square_of_the_features():
    """d = 384: the Kronecker estimate and an HVP without a cache stay near the data's own size."""
    n, d = 2048, 384
    problem = teacher_problem(n, d1=d, d2=d)

    def kronecker(problem, X):
        estimate = AttentionObjective(problem).preconditioner(X)
        return estimate.eigenvalues

    limit = (16 * CPU.entries + 4 * n * d + 24 * d * d) * FLOAT
    assert temporaries(compiled(kronecker, problem, unknown(problem))) <= limit
    assert temporaries(compiled(hvp, problem, unknown(problem))) <= limit


def flops(program) -> float:
    return program.cost_analysis()["flops"]


def one_block(problem, rows):
    """The same problem with as many rows as one block has: what one pass of the loop does."""
    k = problem.sizes[0]
    cut = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((k, rows, leaf.shape[2]), leaf.dtype), (problem.A1, problem.B.Q)
    )
    object.__setattr__(problem, "A1", cut[0])
    object.__setattr__(problem.B, "Q", cut[1])
    return problem


def teacher_flops(problem, rank=8):
    """Rebuilding low-rank targets is no part of the objective's own cost."""
    _, n, m, *_ = problem.sizes
    return 2 * n * m * rank


def test_flops_of_value_and_gradient():
    problem = teacher_problem(512, m=1024, d1=16, d2=48)
    problem = one_block(problem, cut(1, 512, 1024, CPU).rows)
    program = compiled(value_and_grad, problem, unknown(problem))
    assert loops(program) == 0
    _, n, m, d1, d2 = problem.sizes
    products = 4 * n * m * d2 + 4 * n * d1 * d2 + teacher_flops(problem)
    assert products <= flops(program) <= products + 24 * n * m
    assert AttentionObjective(problem).costs().gradient == pytest.approx(flops(program), rel=0.1)


def test_flops_of_the_hessian():
    problem = teacher_problem(256, m=1024, d1=16, d2=32)
    assert cut(1, 256, 1024, CPU).rows == 256
    program = compiled(hessian, problem, unknown(problem))
    _, n, m, d1, d2 = problem.sizes
    assert flops(program) >= n * m * d2**2 + n * (d1 * d2) ** 2 / 2
    assert AttentionObjective(problem).costs().hessian == pytest.approx(flops(program), rel=0.15)


def test_rows_are_streamed_by_one_loop():
    problem = teacher_problem(4096)
    assert loops(compiled(value_and_grad, problem, unknown(problem))) == 1
    assert loops(compiled(hvp, problem, unknown(problem))) == 1


def test_the_same_shapes_compile_once():
    traces = []

    @jax.jit
    def solve(problem, X):
        traces.append(problem.sizes)
        return AttentionObjective(problem).value(X)

    rng = np.random.default_rng(0)
    for ridge in (0.0, 0.1, 0.2):
        A, B = rng.normal(size=(4, 2)), rng.normal(size=(4, 4))
        solve(AttentionRegression(A, A, B, ridge=ridge), jnp.asarray(rng.normal(size=(2, 2))))
    assert len(traces) == 1
    solve(AttentionRegression(A, A, B, loss="linear"), jnp.zeros((2, 2)))
    assert len(traces) == 2
