"""Solve a hard problem from the solution of an easier one that shares its zero-residual set."""

import dataclasses

import jax

from attnreg.lift.streaming import BlockRows
from attnreg.objectives.attention import AttentionObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.solvers import Result, Solver


def normalized_first(
    solver: Solver, problem: AttentionRegression, X: jax.Array, *, block_rows: BlockRows = None
) -> tuple[Result, Result]:
    """Solve the rescaled problem from the solution of the normalized one with the same data.

    `exp(s) − ⟨exp(s), 1⟩ b = 0` and `softmax(s) − b = 0` are the same equation when b sums to 1, so the two losses
    agree on what a perfect fit is. Away from it they do not: the rescaled residual is the normalized one times the row
    sum `⟨exp(s), 1⟩`, so a small loss can be bought by small exponentials, which is where its bad minima lie. The
    normalized loss has bounded residuals and no such escape.

    Args:
        solver: used for both. problem: a "rescaled" one. X: (d1, d2) start of the normalized solve.
        block_rows: as in `AttentionObjective`.

    Returns:
        The `Result` of the rescaled problem, and that of the normalized one before it.

    Precision: as the solver's tolerance; how often it reaches the best known minimum is measured by
    configs/benchmark_solvers.py (docs/guides/benchmarks.md).
    Cost: two solves.
    Raises: ValueError when the problem is not a rescaled one.
    Source: derived here; the two losses are those of arXiv 2307.02419.

    Example:
        >>> import jax
        >>> from attnreg.data.synthetic import attention_instance
        >>> from attnreg.solvers import Newton
        >>> problem, _ = attention_instance(jax.random.key(0), n=16, d=2, loss="rescaled")
        >>> result, first = normalized_first(Newton(tol=1e-3), problem, jax.numpy.zeros((2, 2), problem.dtype))
        >>> bool(result.converged), bool(first.converged)
        (True, True)
    """
    if problem.loss != "rescaled":
        raise ValueError(f"problem.loss is {problem.loss!r}; normalized_first is for 'rescaled'")
    normalized = dataclasses.replace(problem, loss="normalized")
    first = solver.run(AttentionObjective(normalized, block_rows=block_rows), X)
    return solver.run(AttentionObjective(problem, block_rows=block_rows), first.params), first
