"""What was recovered: a fitted layer against a known one, up to what no output can tell apart."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from attnreg.problems.checks import ProblemError
from attnreg.problems.layer import LayerWeights


class HeadComparison(NamedTuple):
    """One fitted head against one true head, on given inputs.

    Args:
        fitted, true: which heads, integers.
        cosine, distance: of the row-centred logits, floats; distance relative to the true ones.
        angle_q, angle_k: largest principal angle, in radians, between what the queries (the centred keys) span on the
            inputs.
        values: relative distance of A V O, the values as they are written.
    """

    fitted: int
    true: int
    cosine: float
    distance: float
    angle_q: float
    angle_k: float
    values: float


def compare_layers(fitted: LayerWeights, true: LayerWeights, A: ArrayLike) -> tuple[HeadComparison, ...]:
    """Every true head with the fitted head that matches it, in the order of the true heads.

    A softmax ignores what all keys of a document share, so logits are compared after centring their rows and keys
    after subtracting their mean; (QG, KG⁻ᵀ) changes neither the logits nor the spans. Heads are matched by the cosine
    of their centred logits.

    Args:
        fitted, true: weights with equally many heads, floats (h, d, r) and so on.
        A: (…, n, d) inputs, best unseen ones.

    Returns:
        One `HeadComparison` per true head.

    Precision: float64.
    Raises: ProblemError for weights that do not fit each other or A.
    Cost: `h²` sums over the logits of every document, in float64 on the host.
    Source: the gauge is derived in docs/theory/closed_forms.md.
    """
    from scipy.optimize import linear_sum_assignment

    A = np.asarray(A, np.float64)
    for name, weights in (("fitted", fitted), ("true", true)):
        if not isinstance(weights, LayerWeights):
            raise ProblemError(f"{name} is a {type(weights).__name__}; it must be LayerWeights")
    if len(fitted.Q) != len(true.Q):
        raise ProblemError(f"fitted has {len(fitted.Q)} heads; it must have {len(true.Q)}, as true")
    if A.shape[-1] != true.Q.shape[1]:
        raise ProblemError(f"A is {A.shape[-1]} wide; it must be {true.Q.shape[1]}, as the weights")
    A = A.reshape(-1, *A.shape[-2:])
    mine, theirs = _wide(fitted), _wide(true)
    inner, mine_size, true_size = _inner_products(mine, theirs, A)
    lengths = np.sqrt(mine_size[:, None] * true_size[None, :])
    cosines = inner / np.where(lengths > 0, lengths, 1)
    rows, columns = linear_sum_assignment(-cosines)
    flat = A.reshape(-1, A.shape[2])
    out = []
    for j, i in sorted(zip(columns.tolist(), rows.tolist(), strict=True)):
        square = max(mine_size[i] - 2 * inner[i, j] + true_size[j], 0.0)
        angles = (
            _largest_angle(flat @ mine.Q[i], flat @ theirs.Q[j]),
            _largest_angle(_less_mean(flat @ mine.K[i]), _less_mean(flat @ theirs.K[j])),
        )
        written, wanted = flat @ _values(mine, i), flat @ _values(theirs, j)
        values = float(np.linalg.norm(written - wanted) / np.linalg.norm(wanted))
        out.append(HeadComparison(i, j, float(cosines[i, j]), float(np.sqrt(square / true_size[j])), *angles, values))
    return tuple(out)


def _wide(weights: LayerWeights) -> LayerWeights:
    return LayerWeights._make(None if W is None else np.asarray(W, np.float64) for W in weights)


def _values(weights: LayerWeights, head: int) -> np.ndarray:
    """V O of one head, (d, c)."""
    values = np.asarray(weights.V[head])
    return values if weights.O is None else values @ np.asarray(weights.O[head])


def _inner_products(mine: LayerWeights, theirs: LayerWeights, A: np.ndarray):
    """Inner products of row-centred logits between all heads (h, h), and the squared norms (h,) of either side."""
    inner, mine_size, true_size = (np.zeros(s) for s in ((len(mine.Q), len(theirs.Q)), len(mine.Q), len(theirs.Q)))
    for a in A:
        left, right = (
            np.stack([(a @ Q) @ _less_mean(a @ K).T for Q, K in zip(w.Q, w.K, strict=True)]) for w in (mine, theirs)
        )
        inner += np.einsum("inm,jnm->ij", left, right, optimize=True)
        mine_size += np.einsum("inm,inm->i", left, left)
        true_size += np.einsum("inm,inm->i", right, right)
    return inner, mine_size, true_size


def _less_mean(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=0, keepdims=True)


def _largest_angle(x: np.ndarray, y: np.ndarray) -> float:
    """Largest principal angle between the column spaces of x and y, accurate for small angles (by its sine)."""
    x, y = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    sine = np.linalg.norm(y - x @ (x.T @ y), ord=2)
    return float(np.arcsin(min(sine, 1.0)))
