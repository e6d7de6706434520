"""What was recovered: a fitted layer against a known one, up to what no output can tell apart."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from attnreg.problems.checks import ProblemError
from attnreg.problems.layer import LayerWeights
from attnreg.problems.reprs import compact_repr
from attnreg.problems.rotary import Rotary


@compact_repr
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


def compare_layers(
    fitted: LayerWeights, true: LayerWeights, A: ArrayLike, *, rotary: Rotary | None = None, causal: bool = False
) -> tuple[HeadComparison, ...]:
    """Every true head with the fitted head that matches it, in the order of the true heads.

    A softmax ignores what all keys of a document share, so logits are compared after centring their rows and keys
    after subtracting their mean; (QG, KG⁻ᵀ) changes neither the logits nor the spans. Heads are matched by the cosine
    of their centred logits. With rotary positions logits are compared after the turns, spans before them.

    Args:
        fitted, true: weights with equally many heads, floats (h, d, r) and so on; shared keys and values count for
            every head that reads them.
        A: (…, n, d) inputs, best unseen ones.
        rotary: how queries and keys turn; row i stands at position i unless it has positions.
        causal: logits of keys ≤ query only.

    Returns:
        One `HeadComparison` per true head.

    Precision: float64.
    Raises: ProblemError for weights that do not fit each other or A.
    Cost: `h²` sums over the logits of every document, in float64 on the host.
    Source: the gauge is derived in docs/theory/closed_forms.md.
    """
    from scipy.optimize import linear_sum_assignment

    A = np.asarray(A, np.float64)
    _check(fitted, true, A)
    A = A.reshape(-1, *A.shape[-2:])
    mine, theirs = _wide(fitted), _wide(true)
    inner, mine_size, true_size = _inner_products(mine, theirs, A, checked_turns(rotary, A), causal)
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


def _check(fitted: LayerWeights, true: LayerWeights, A: np.ndarray) -> None:
    """Refuse weights that do not fit each other or A."""
    for name, weights in (("fitted", fitted), ("true", true)):
        if not isinstance(weights, LayerWeights):
            raise ProblemError(f"{name} is a {type(weights).__name__}; it must be LayerWeights")
    if len(fitted.Q) != len(true.Q):
        raise ProblemError(f"fitted has {len(fitted.Q)} heads; it must have {len(true.Q)}, as true")
    if A.shape[-1] != true.Q.shape[1]:
        raise ProblemError(f"A is {A.shape[-1]} wide; it must be {true.Q.shape[1]}, as the weights")


def checked_turns(rotary: Rotary | None, A: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """The turn of projected rows (h, n, r) of a document, in float64."""
    if rotary is None:
        return lambda x, document: x
    if not isinstance(rotary, Rotary):
        raise ProblemError(f"rotary is a {type(rotary).__name__}; it must be a Rotary, e.g. Rotary(width=64, base=1e4)")
    positions = np.broadcast_to(np.arange(A.shape[1]) if rotary.positions is None else rotary.positions, A.shape[:2])
    return lambda x, document: rotary.turned(x, positions[document])


def _wide(weights: LayerWeights) -> LayerWeights:
    """In float64, with what heads share repeated for each."""
    wide = LayerWeights._make(None if W is None else np.asarray(W, np.float64) for W in weights)
    h = len(wide.Q)
    return wide._replace(K=np.repeat(wide.K, h // len(wide.K), axis=0), V=np.repeat(wide.V, h // len(wide.V), axis=0))


def _values(weights: LayerWeights, head: int) -> np.ndarray:
    """V O of one head, (d, c)."""
    values = np.asarray(weights.V[head])
    return values if weights.O is None else values @ np.asarray(weights.O[head])


def _inner_products(mine: LayerWeights, theirs: LayerWeights, A: np.ndarray, turned: Any, causal: bool):
    """Inner products of row-centred logits between all heads (h, h), and the squared norms (h,) of either side."""
    inner, mine_size, true_size = (np.zeros(s) for s in ((len(mine.Q), len(theirs.Q)), len(mine.Q), len(theirs.Q)))
    n = A.shape[1]
    allowed = np.tri(n, dtype=bool) if causal else np.ones((n, n), bool)
    for document, a in enumerate(A):
        left, right = (
            _centred(turned(a @ w.Q, document) @ np.swapaxes(turned(a @ w.K, document), 1, 2), allowed)
            for w in (mine, theirs)
        )
        inner += np.einsum("inm,jnm->ij", left, right, optimize=True)
        mine_size += np.einsum("inm,inm->i", left, left)
        true_size += np.einsum("inm,inm->i", right, right)
    return inner, mine_size, true_size


def _centred(S: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Logits (h, n, n) minus their mean over the allowed keys of each row, 0 elsewhere."""
    mean = np.sum(S, axis=2, keepdims=True, where=allowed) / allowed.sum(axis=1)[:, None]
    return np.where(allowed, S - mean, 0)


def _less_mean(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=0, keepdims=True)


def _largest_angle(x: np.ndarray, y: np.ndarray) -> float:
    """Largest principal angle between the column spaces of x and y, accurate for small angles (by its sine)."""
    x, y = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    sine = np.linalg.norm(y - x @ (x.T @ y), ord=2)
    return float(np.arcsin(min(sine, 1.0)))
