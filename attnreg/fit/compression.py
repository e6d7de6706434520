"""A head of smaller rank with nearly the same attention maps, or outputs: fitted after the softmax.

A head has queries q and keys k, (k, n, w) with any scale folded in, and maps softmax(q kᵀ). Compressed to rank r it
stores q P and k S of width r, and its maps are softmax(q P Sᵀ kᵀ). A closed form (attnreg/fit/cuts.py) makes P Sᵀ the
best rank-r stand-in for the identity in some metric of logits. The fit starts there and goes on to the maps themselves,
or to what they make of the head's values.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.cuts import centred, cut, inverse, root
from attnreg.fit.gauss_newton import Options, gauss_newton_steps
from attnreg.lift.tensor_trick import einsum
from attnreg.objectives.base import SecondOrderObjective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.known_values import KnownValues
from attnreg.objectives.pulled import Pulled
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_integer, check_number
from attnreg.problems.one_layer import OneLayerRegression
from attnreg.problems.reprs import compact_repr

# The path of pulls, strong to weak. At 1 a move as large as the closed form itself costs as much as a map of zeros.
PULLS = (0.1, 1e-2, 0.0)
STEPS = 5  # of Levenberg–Marquardt, for each pull
ENOUGH = 5e-3  # a pull is left once a step takes off less than this part of the loss


@compact_repr
class Compressed(NamedTuple):
    """A compressed head.

    Args:
        projections: P and S, (w, r) NumPy float64, for queries and keys as they were given.
        train, heldout: squared error of what is matched, the maps or the outputs, relative to its squared norm.
        pull: the weight of the pull towards the closed form that held-out texts chose; infinite where they chose the
            closed form itself.
        path: per step its pull, train and held-out error.
    """

    projections: Factors
    train: float
    heldout: float
    pull: float
    path: tuple[tuple[float, float, float], ...]


def map_error(q: ArrayLike, k: ArrayLike, maps: ArrayLike, projections: Factors, causal: bool = False) -> float:
    """Squared error of the maps softmax(q P Sᵀ kᵀ), relative to the squared norm of a head's own.

    Args:
        q, k: (t, n, w) queries and keys of texts, floating point. maps: (t, n, n) the head's own.
        projections: P and S, (w, r). causal: query i attends keys ≤ i.

    Returns:
        The error, a Python float.

    Precision: float32 (tests/fit/test_compression.py).
    Cost: one value of `FactoredObjective`.
    Source: the definition above.

    Example:
        >>> x, eye = np.zeros((1, 2, 1)), Factors(np.ones((1, 1)), np.ones((1, 1)))
        >>> map_error(x, x, np.full((1, 2, 2), 0.5), eye)
        0.0
    """
    return _error((q, k, maps), projections, causal)


def output_error(
    q: ArrayLike, k: ArrayLike, maps: ArrayLike, values: ArrayLike, projections: Factors, causal: bool = False
) -> float:
    """Squared error of the outputs softmax(q P Sᵀ kᵀ) V, relative to the squared norm of a head's own, F V.

    Args:
        q, k: (t, n, w) queries and keys of texts, floating point. maps: F, (t, n, n). values: V, (t, n, c).
        projections: P and S, (w, r). causal: query i attends keys ≤ i.

    Returns:
        The error, a Python float.

    Precision: float32 (tests/fit/test_compression.py).
    Cost: one value of `KnownValues`.
    Source: the definition above.

    Example:
        >>> x, eye = np.zeros((1, 2, 1)), Factors(np.ones((1, 1)), np.ones((1, 1)))
        >>> output_error(x, x, np.full((1, 2, 2), 0.5), np.ones((1, 2, 3)), eye)
        0.0
    """
    return _error((q, k, maps, values), projections, causal)


def _error(head: Sequence[ArrayLike], projections: Factors, causal: bool) -> float:
    with jax.numpy_dtype_promotion("standard"):
        x = Factors._make(jnp.asarray(part, jnp.float32) for part in projections)
        return float(_relative(tuple(jnp.asarray(a, jnp.float32) for a in head), x, causal))


@jax.jit(static_argnames="causal")
def _relative(head: tuple[jax.Array, ...], x: Factors, causal: bool) -> jax.Array:
    objective, unit = _objective(head, x.Q.shape[1], causal)
    return objective.value(x) / unit


def _objective(head: Sequence[Any], rank: int, causal: bool) -> tuple[SecondOrderObjective, jax.Array]:
    """The loss of maps, from (q, k, maps), or of outputs, from (q, k, maps, values); the squared norm of its targets.

    On map targets the loss of the outputs is `‖(softmax(q P Sᵀ kᵀ) − F) V‖²`: that of the maps in another metric.
    """
    q, k, maps, *values = head
    if not values:
        return FactoredObjective(AttentionRegression(q, k, maps, causal=causal), rank), jnp.sum(maps * maps)
    outputs = einsum("tij,tjc->tic", maps, values[0])
    problem = OneLayerRegression(q, k, values[0], outputs, causal=causal)
    return KnownValues(problem, jnp.eye(outputs.shape[2], dtype=outputs.dtype), rank), jnp.sum(outputs * outputs)


def compress_head(
    q: ArrayLike,
    k: ArrayLike,
    maps: ArrayLike,
    rank: int,
    *,
    heldout: Sequence[ArrayLike],
    values: ArrayLike | None = None,
    causal: bool = False,
    start: Factors | None = None,
    pulls: Sequence[float] = PULLS,
    steps: int = STEPS,
) -> Compressed:
    """Projections P and S of rank r whose maps, or outputs, are nearest to a head's own, after the softmax.

    Levenberg–Marquardt on `‖softmax(q P Sᵀ kᵀ) − F‖²/‖F‖² + pull·‖move‖²/‖start‖²`, the pull falling along a path;
    with values V, on `‖(softmax(q P Sᵀ kᵀ) − F) V‖²/‖F V‖²` in its place. Every step is judged on held-out texts, and
    the best is kept: the closed form itself, if no step beats it. At rank w the closed form is exact, and nothing is
    fitted.

    Args:
        q, k: (k, n, w) queries and keys of the training texts, scale folded in. maps: (k, n, n) the head's maps there.
        rank: r.
        heldout: q, k (t, n, w) and maps (t, n, n) of texts that decide; with values also theirs, (t, n, c).
        values: (k, n, c) what the keys carry: times the head's part of an output projection, for its part of a layer's
            output. None matches the maps.
        causal: query i attends keys ≤ i.
        start: P and S to start from; None is the closed form "centred".
        pulls: the path, falling; relative. steps: Levenberg–Marquardt steps for each.

    Returns:
        `Compressed`.

    Precision: float32 products in coordinates where queries and keys are white; projections in float64.
    Cost: at most `len(pulls) · steps` steps on `FactoredObjective`, or `KnownValues`, with 2·w·r unknowns.
    Raises: ProblemError for a rank above w, or shapes that do not fit.
    Source: derived at the head of this file.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> q, k = rng.normal(size=(2, 6, 16, 4)).astype("float32") * np.array([2, 1, 0.3, 0.1], "float32")
        >>> S = q @ k.swapaxes(1, 2)
        >>> F = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
        >>> part = lambda i: (q[i], k[i], F[i])
        >>> fit = compress_head(*part(slice(0, 4)), rank=2, heldout=part(slice(4, 6)))
        >>> closed = cut(root(q[:4]), root(centred(k[:4])), 2)
        >>> fit.projections.Q.shape, fit.path[-1][1] < map_error(*part(slice(0, 4)), closed)
        ((4, 2), True)
    """
    q, k, maps = (np.asarray(a, np.float64) for a in (q, k, maps))
    check_integer("rank", rank, at_least=1, at_most=q.shape[-1])
    check_integer("steps", steps, at_least=1)
    for pull in pulls:
        check_number("pulls", pull, at_least=0)
    parts = "(q, k, maps)" if values is None else "(q, k, maps, values)"
    if len(heldout) != parts.count(",") + 1:
        raise ProblemError(f"heldout has {len(heldout)} parts; it must be {parts}")
    targets = (maps,) if values is None else (maps, np.asarray(values))
    white = _White.of(q, k)
    start = cut(white.queries, white.keys, rank) if start is None else start
    judge = lambda found: _error(heldout, found, causal)  # noqa: E731
    best = Compressed(start, _error((q, k, *targets), start, causal), judge(start), float("inf"), ())
    if rank == q.shape[-1]:
        return best
    objective, unit = white.objective(q, k, targets, rank, causal)
    x = centre = white.inside(start)
    size = float(sum(jnp.sum(part**2) for part in centre))
    path, damping = [], LOOP.damping
    for pull in pulls:
        pulled = Pulled(objective, centre, jnp.float32(2 * pull * unit / size))
        value = float(pulled.value(x))
        for _, step in zip(range(steps), gauss_newton_steps(pulled, x, LOOP._replace(damping=damping)), strict=False):
            x, damping = step.params, step.damping
            found = white.outside(x)
            path.append((pull, float(objective.value(x)) / unit, judge(found)))
            if path[-1][2] < best.heldout:
                _, error, judged = path[-1]
                best = Compressed(found, error, judged, pull, ())
            before, value = value, step.value
            if step.accepted and before - value < ENOUGH * value:
                break
    return best._replace(path=tuple(path))


LOOP = Options(damping=1e-2, max_products=40, forcing=0.1)


class _White(NamedTuple):
    """Coordinates in which queries, and keys minus their mean, have identity second moments: roots and inverses."""

    queries: np.ndarray
    keys: np.ndarray
    back: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, q: np.ndarray, k: np.ndarray) -> "_White":
        roots = root(q) / np.sqrt(q[..., 0].size), root(centred(k)) / np.sqrt(k[..., 0].size)
        return cls(*roots, (inverse(roots[0]), inverse(roots[1])))

    def objective(
        self, q: np.ndarray, k: np.ndarray, targets: tuple[np.ndarray, ...], rank: int, causal: bool
    ) -> tuple[SecondOrderObjective, float]:
        arrays = (q @ self.back[0], centred(k) @ self.back[1], *targets)
        objective, unit = _objective([jnp.asarray(a, jnp.float32) for a in arrays], rank, causal)
        return objective, float(unit)

    def inside(self, x: Factors) -> Factors:
        return Factors._make(
            jnp.asarray(R @ np.asarray(part), jnp.float32) for R, part in zip(self[:2], x, strict=True)
        )

    def outside(self, x: Factors) -> Factors:
        pairs = zip(self.back, x, strict=True)
        return Factors._make(R @ np.asarray(part, np.float64) for R, part in pairs)  # type: ignore[misc]
