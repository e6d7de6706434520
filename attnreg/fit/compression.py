"""A head of smaller rank with nearly the same attention maps: fitted after the softmax, and by three closed forms.

A head has queries q and keys k, (k, n, w) with any scale folded in, and maps softmax(q kᵀ). Compressed to rank r it
stores q P and k S of width r, and its maps are softmax(q P Sᵀ kᵀ). A closed form makes P Sᵀ the best rank-r
stand-in for the identity in some metric of logits. The fit starts there and goes on to the maps themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.gauss_newton import Options, gauss_newton_steps
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.pulled import Pulled
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_integer, check_number
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
        train, heldout: squared error of the maps, relative to their squared norm.
        pull: the weight of the pull towards the closed form that held-out texts chose; infinite where they chose the
            closed form itself.
        path: per step its pull, train and held-out error.
    """

    projections: Factors
    train: float
    heldout: float
    pull: float
    path: tuple[tuple[float, float, float], ...]


def root(rows: ArrayLike) -> np.ndarray:
    """R (w, w) upper triangular with `RᵀR = Σ x xᵀ` over all rows x of an array (…, w).

    Example:
        >>> abs(root(np.array([[3.0], [4.0]]))).tolist()
        [[5.0]]
    """
    rows = np.asarray(rows, np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    if rows.shape[0] < rows.shape[1]:
        rows = np.concatenate([rows, np.zeros((rows.shape[1] - rows.shape[0], rows.shape[1]))])
    return np.asarray(np.linalg.qr(rows, mode="r"))


def centred(keys: ArrayLike) -> np.ndarray:
    """Keys (…, m, w) minus their mean over a text: moves each row of logits by a constant, so the maps stay."""
    keys = np.asarray(keys, np.float64)
    return keys - keys.mean(axis=-2, keepdims=True)


def cut(queries: np.ndarray, keys: np.ndarray, rank: int) -> Factors:
    """P and S (w, r) for which `‖R_q (I − P Sᵀ) R_kᵀ‖` is least, from the roots R_q and R_k (w, w) of two metrics.

    Cost: a singular value decomposition of a (w, w) matrix. Directions that a metric does not see get zeros.

    Example:
        >>> P, S = cut(np.diag([2.0, 1.0]), np.eye(2), 1)
        >>> abs(P @ S.T).round(12).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    left, sizes, right = np.linalg.svd(queries @ keys.T)
    half = np.sqrt(sizes[:rank])
    return Factors._make([_inverse(queries) @ (left[:, :rank] * half), _inverse(keys) @ (right[:rank].T * half)])  # type: ignore[list-item]


def _inverse(R: np.ndarray) -> np.ndarray:
    """The inverse of a root (w, w), zero in directions that its metric does not see."""
    return np.linalg.pinv(R, rcond=1e-10)


def closed_forms(Q: ArrayLike, K: ArrayLike, q: ArrayLike, k: ArrayLike, rank: int) -> dict[str, Factors]:
    """P and S (w, r) NumPy float64 in closed form, by what of the logits they keep best.

    * "weights": the matrix Q Kᵀ itself (truncated singular value decomposition).
    * "logits": q kᵀ over all pairs of tokens of all texts (KQ-SVD, arXiv 2512.05916; A³, arXiv 2505.12942).
    * "centred": the same with the mean key of each text off, which no map depends on.

    Args:
        Q, K: (d, w) weights, biases folded in.
        q, k: (…, n, w) what they make of texts.
        rank: r.

    Returns:
        P and S by the name of what they keep.

    Precision: the discarded singular values to 100 eps of the whole (tests/fit/test_compression.py).
    Cost: QR of the weights and of all rows of q and k, and three singular value decompositions of (w, w).
    Source: the best of its rank in each metric by Eckart and Young; the papers named above have the second.

    Example:
        >>> W, x = np.eye(3)[:, :2], np.random.default_rng(0).normal(size=(2, 5, 2))
        >>> {name: form.Q.shape for name, form in closed_forms(W, W, x, x, 1).items()}
        {'weights': (2, 1), 'logits': (2, 1), 'centred': (2, 1)}
    """
    metrics = {"weights": (Q, K), "logits": (q, k), "centred": (q, centred(k))}
    return {name: cut(root(a), root(b), rank) for name, (a, b) in metrics.items()}


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
    with jax.numpy_dtype_promotion("standard"):
        P, S = (jnp.asarray(part, jnp.float32) for part in projections)
        return float(_map_error(*(jnp.asarray(a, jnp.float32) for a in (q, k, maps)), P, S, causal))


@jax.jit(static_argnames="causal")
def _map_error(q, k, maps, P, S, causal: bool):
    objective = FactoredObjective(AttentionRegression(q, k, maps, causal=causal), P.shape[1])
    return objective.value(Factors(P, S)) / jnp.sum(maps * maps)


def compress_head(
    q: ArrayLike,
    k: ArrayLike,
    maps: ArrayLike,
    rank: int,
    *,
    heldout: tuple[ArrayLike, ArrayLike, ArrayLike],
    causal: bool = False,
    start: Factors | None = None,
    pulls: Sequence[float] = PULLS,
    steps: int = STEPS,
) -> Compressed:
    """Projections P and S of rank r whose maps are nearest to a head's own, after the softmax.

    Levenberg–Marquardt on `‖softmax(q P Sᵀ kᵀ) − F‖²/‖F‖² + pull·‖move‖²/‖start‖²`, the pull falling along a path.
    Every step is judged on held-out texts, and the best is kept: the closed form itself, if no step beats it. At rank w
    the closed form is exact, and nothing is fitted.

    Args:
        q, k: (k, n, w) queries and keys of the training texts, scale folded in. maps: (k, n, n) the head's maps there.
        rank: r.
        heldout: q, k (t, n, w) and maps (t, n, n) of texts that decide.
        causal: query i attends keys ≤ i.
        start: P and S to start from; None is the closed form "centred".
        pulls: the path, falling; relative. steps: Levenberg–Marquardt steps for each.

    Returns:
        `Compressed`.

    Precision: float32 products in coordinates where queries and keys are white; projections in float64.
    Cost: at most `len(pulls) · steps` steps on `FactoredObjective` with 2·w·r unknowns.
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
    if len(heldout) != 3:
        raise ProblemError(f"heldout has {len(heldout)} parts; it must be (q, k, maps)")
    white = _White.of(q, k)
    start = cut(white.queries, white.keys, rank) if start is None else start
    judge = lambda found: map_error(*heldout, found, causal)  # noqa: E731
    best = Compressed(start, map_error(q, k, maps, start, causal), judge(start), float("inf"), ())
    if rank == q.shape[-1]:
        return best
    objective = white.objective(q, k, maps, rank, causal)
    x = centre = white.inside(start)
    unit, size = float(np.sum(maps**2)), float(sum(jnp.sum(part**2) for part in centre))
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
        return cls(*roots, (_inverse(roots[0]), _inverse(roots[1])))

    def objective(self, q: np.ndarray, k: np.ndarray, maps: np.ndarray, rank: int, causal: bool) -> FactoredObjective:
        arrays = (q @ self.back[0], centred(k) @ self.back[1], maps)
        A1, A2, B = (jnp.asarray(a, jnp.float32) for a in arrays)
        problem = AttentionRegression(A1, A2, B, causal=causal)
        return FactoredObjective(problem, rank)

    def inside(self, x: Factors) -> Factors:
        return Factors._make(
            jnp.asarray(R @ np.asarray(part), jnp.float32) for R, part in zip(self[:2], x, strict=True)
        )

    def outside(self, x: Factors) -> Factors:
        pairs = zip(self.back, x, strict=True)
        return Factors._make(R @ np.asarray(part, np.float64) for R, part in pairs)  # type: ignore[misc]
