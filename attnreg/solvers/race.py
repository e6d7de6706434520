"""Many starts in one compiled batch, stage by stage, the hopeless ones dropped after each stage."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.solvers.base import Solver
from attnreg.solvers.result import Result


class Stage(NamedTuple):
    """A solver, the objective it is run on, and how many of the starts go on afterwards (best values first)."""

    solver: Solver
    objective: Any
    keep: int


class Survivors(NamedTuple):
    """The starts that came through, best first: their unknowns and values, and the evaluations that all have spent."""

    params: Any
    values: jax.Array
    evaluations: jax.Array


def race(stages: Sequence[Stage], starts: Any) -> Survivors:
    """Run every start through the stages, keeping the best `keep` after each: continuation with early stopping.

    Args:
        stages: for example the same problem with a falling ridge. `keep` must not grow from stage to stage.
        starts: unknowns with a leading axis, as from `starts.normal_starts`.

    Returns:
        `Survivors` of the last stage, sorted by its objective.

    Cost: Σ over stages of (starts left) × (solver steps), one compilation per distinct (solver, number of starts).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from attnreg.objectives.attention import AttentionObjective
        >>> from attnreg.problems.attention import AttentionRegression
        >>> from attnreg.solvers.lbfgs import LBFGS
        >>> from attnreg.solvers.race import normal_starts
        >>> problem = AttentionRegression(jnp.eye(2), jnp.eye(2), jnp.array([[0.8, 0.2], [0.3, 0.7]]))
        >>> objective = AttentionObjective(problem)
        >>> starts = normal_starts(jax.random.key(0), objective.zeros(), 4)
        >>> bool(race([Stage(LBFGS(), objective, 1)], starts).values[0] < 1e-12)
        True
    """
    left = jax.tree.leaves(starts)[0].shape[0]
    values, spent = jnp.zeros(()), jnp.zeros((), jnp.int32)
    for stage in stages:
        if not 1 <= stage.keep <= left:
            raise ValueError(f"a stage keeps {stage.keep} of {left} starts; keep must be from 1 to {left}")
        results = _run_batch(stage.solver, stage.objective, starts)
        values = jnp.where(jnp.isfinite(results.value), results.value, jnp.inf)
        order = jnp.argsort(values)[: stage.keep]
        starts, values, left = take(results.params, order), values[order], stage.keep
        spent = spent + jnp.sum(results.counts.gradients, dtype=jnp.int32)
    return Survivors(starts, values, spent)


@functools.partial(jax.jit, static_argnums=0)
def _run_batch(solver: Solver, objective: Any, starts: Any) -> Result:
    """All starts in lock step; stages that differ in data only, such as a ridge, share one compilation."""
    return jax.vmap(solver.run, (None, 0))(objective, starts)


def normal_starts(key: jax.Array, like: Any, count: int, *, scale: float = 1.0) -> Any:
    """`count` pytrees shaped like `like` with independent N(0, scale²) entries, stacked along a leading axis.

    Args:
        key: PRNG key. like: a pytree of arrays, for example `objective.zeros()`. count: how many. scale: standard
        deviation.

    >>> import jax, jax.numpy as jnp
    >>> normal_starts(jax.random.key(0), jnp.zeros((2, 3)), 4).shape
    (4, 2, 3)
    """
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [
        jnp.asarray(scale, leaf.dtype) * jax.random.normal(k, (count, *leaf.shape), leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, draws)


def take(batch: Any, index: Any) -> Any:
    """Members `index` (an integer or an integer array) of a stacked batch."""
    return jax.tree.map(lambda x: x[index], batch)
