"""Heads with rotary positions that keep some of their pairs of columns: which, and by which scales, after the softmax.

Query heads that share keys keep the same pairs, since the keys are what a cache stores (`attnreg.fit.rotary_pairs`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit import rotary_pairs as pairs
from attnreg.objectives.factors import Factors
from attnreg.problems.checks import ProblemError, check_choice, check_integer
from attnreg.problems.reprs import compact_repr

LAYOUTS = ("half", "interleaved")
STEPS = 10  # of Levenberg–Marquardt
_DAMPING, _ENOUGH = 1e-3, 1e-4  # the first; the decrease, relative, below which a fit ends


@compact_repr
class CompressedGroup(NamedTuple):
    """Compressed heads that share their keys.

    Args:
        projections: P (h, w, r), one for each query head, and S (w, r), NumPy float64.
        train, heldout: squared error of what is matched, maps or outputs, relative to its squared norm, (h,) each.
        kept: (r/2,) integers, the pairs that are kept.
        start: which metric chose them.
    """

    projections: Factors
    train: np.ndarray
    heldout: np.ndarray
    kept: np.ndarray
    start: str


class RotaryGroup:
    """Query heads that share a key head, on training texts: closed forms and fits of every rank.

    Args:
        q: (h, t, n, w) floating point, turned queries with the scale folded in. k: (t, n, w) turned keys.
        maps: (h, t, n, n) the heads' causal maps. layout: "half" or "interleaved".
        values: (h, t, n, c) what the keys carry for each head, through its part of the output projection; the outputs
            are then matched. None matches the maps.

    Precision: float32 sums over texts, scales in float64.
    Cost: once, three sums of (w, w) Gram matrices over all pairs of tokens, for each head.
    Raises: ProblemError for shapes that do not fit, or an unknown layout.
    Source: derived at the head of attnreg/fit/rotary_pairs.py.
    """

    def __init__(
        self, q: ArrayLike, k: ArrayLike, maps: ArrayLike, *, layout: str = "half", values: ArrayLike | None = None
    ) -> None:
        check_choice("layout", layout, LAYOUTS)
        self.heads: list[pairs.Texts] = _checked((q, k, maps) if values is None else (q, k, maps, values), layout)
        self.layout: str = layout
        self.width: int = 2 * self.heads[0].q.shape[2]
        self.with_values: bool = values is not None
        found = [pairs.metrics(head) for head in self.heads]
        self.metrics: dict[str, np.ndarray] = {name: np.stack([each[name] for each in found]) for name in found[0]}
        self.orders: dict[str, np.ndarray] = {}

    def closed_forms(self, Q: ArrayLike, K: ArrayLike, rank: int) -> dict[str, Factors]:
        """P (h, w, r) and S (w, r) in closed form, by what they keep.

        * "weights": the pairs with the largest `Σ_h ‖Q‖² ‖K‖²` of their columns, as they are.
        * "logits": the pairs, and least-squares scales, that keep the logits over all pairs of tokens of all texts.
        * "centred": the same with the mean of each row of logits off.

        Args:
            Q: (h, d, w) and K: (d, w), the weights, floating point. rank: r, even.
        """
        kept, scales = self._by_weights(Q, K, _pairs_of(rank, self.width))
        forms = {"weights": pairs.projections(kept, scales, self.width, self.layout)}
        for name in ("logits", "centred"):
            forms[name] = pairs.projections(*self._chosen(name, rank), self.width, self.layout)
        return forms

    def compress(
        self, rank: int, heldout: Sequence[ArrayLike], *, starts: Sequence[str] = (), steps: int = STEPS
    ) -> CompressedGroup:
        """The pairs and scales whose maps, or outputs, are nearest to the heads' own, after the softmax.

        For each start the pairs are chosen in its metric; "maps" and "outputs" are the curvature of the loss at the
        heads as they are. Levenberg–Marquardt then moves the scales. Held-out texts choose the step for each head, and
        among the starts by the head that gains least over the best of its starts: a sum of errors would leave the
        choice to the heads that are hard, and make others worse than a closed form.

        Args:
            rank: r, even. heldout: q (h, t, n, w), k (t, n, w) and maps (h, t, n, n) of texts that decide, and values
                (h, t, n, c) where the group has values.
            starts: metrics; empty is all three. steps: at most so many.
        """
        half = _pairs_of(rank, self.width)
        check_integer("steps", steps, at_least=1)
        for start in starts:
            check_choice("starts", start, tuple(self.metrics))
        if len(heldout) != 3 + self.with_values:
            wanted = "(q, k, maps, values)" if self.with_values else "(q, k, maps)"
            raise ProblemError(f"heldout has {len(heldout)} parts; it must be {wanted}")
        judge = _checked(tuple(heldout), self.layout)
        if half == self.width // 2:
            kept, scales = self._chosen("centred", rank)
            none = np.zeros(len(self.heads))
            return CompressedGroup(
                pairs.projections(kept, scales, self.width, self.layout), none, none, kept, "centred"
            )
        fits, first = zip(*(self._fit(start, rank, judge, steps) for start in starts or self.metrics), strict=True)
        closed = np.min(first, axis=0)
        return min(fits, key=lambda fit: float(np.max(fit.heldout / closed)))

    def _fit(self, start: str, rank: int, judge: list[pairs.Texts], steps: int) -> tuple[CompressedGroup, np.ndarray]:
        """The fit from one start, and the held-out errors (h,) of the start itself."""
        kept, scales = self._chosen(start, rank)
        every = zip(self.heads, judge, scales, strict=True)
        found = [_levenberg_marquardt(head.kept(kept), held.kept(kept), x, steps) for head, held, x in every]
        x, train, held, first = (np.asarray(part) for part in zip(*found, strict=True))
        factors = pairs.projections(kept, x, self.width, self.layout)
        return CompressedGroup(factors, train, held, kept, start), first

    def _chosen(self, metric: str, rank: int) -> tuple[np.ndarray, np.ndarray]:
        matrices = self.metrics[metric]
        if metric not in self.orders:  # once for all ranks
            self.orders[metric] = pairs.eliminated(matrices)
        kept = np.sort(self.orders[metric][-(rank // 2) :])
        return kept, np.stack([pairs.least_squares(H, kept) for H in matrices])

    def _by_weights(self, Q: ArrayLike, K: ArrayLike, half: int) -> tuple[np.ndarray, np.ndarray]:
        own = pairs.columns(self.width, self.layout)
        of_q, of_k = (np.sum(np.asarray(W, np.float64) ** 2, axis=-2)[..., own].sum(axis=-1) for W in (Q, K))
        kept = np.sort(np.argsort(-(of_q.sum(axis=0) * of_k))[:half])
        return kept, np.tile(np.repeat([1.0, 0.0], half), (len(self.heads), 1))


def _levenberg_marquardt(train: pairs.Texts, heldout: pairs.Texts, x: np.ndarray, steps: int):
    """The best scales on held-out texts among the steps from x, their train and held-out error, and the latter at x."""
    unit, judged = train.size(), heldout.size()
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    here, mu = pairs.fitted(train, f32(x)), _DAMPING
    best = (x, float(here.value) / unit, pairs.loss(heldout, f32(x)) / judged)
    first = best[2]
    for _ in range(steps):
        H, g = (np.asarray(part, np.float64) for part in (here.matrix, here.gradient))
        damping = mu * np.diag(H) + 1e-8 * np.trace(H) / len(H)
        trial = x - np.linalg.solve(H + np.diag(damping), g)
        value = pairs.loss(train, f32(trial))
        gain = float(here.value) - value
        if not gain > 0:
            if mu > 1e3:
                break
            mu *= 10
            continue
        x, mu = trial, mu / 5
        error = pairs.loss(heldout, f32(x)) / judged
        if error < best[2]:
            best = (x, value / unit, error)
        if gain < _ENOUGH * value:
            break
        here = pairs.fitted(train, f32(x))
    return *best, first


def _checked(parts: tuple[ArrayLike, ...], layout: str) -> list[pairs.Texts]:
    """Each head's texts from q (h, t, n, w), k (t, n, w), maps (h, t, n, n), and values (h, t, n, c) if there are."""
    q, k = np.asarray(parts[0]), np.asarray(parts[1])
    targets = [jnp.asarray(part, jnp.float32) for part in parts[2:]]
    if q.ndim != 4 or k.shape != q.shape[1:] or targets[0].shape != (*q.shape[:3], q.shape[2]):
        raise ProblemError(
            f"q, k and maps have shapes {q.shape}, {k.shape} and {targets[0].shape}; they must be (h, t, n, w), "
            f"(t, n, w) and (h, t, n, n)"
        )
    for values in targets[1:]:
        if values.ndim != 4 or values.shape[:3] != q.shape[:3]:
            raise ProblemError(f"values has shape {values.shape}; it must be (h, t, n, c) = {q.shape[:3]} and any c")
    queries, keys = jnp.asarray(pairs.in_pairs(q, layout)), jnp.asarray(pairs.in_pairs(k, layout))
    return [pairs.Texts(queries[h], keys, *(part[h] for part in targets)) for h in range(len(q))]


def _pairs_of(rank: int, width: int) -> int:
    check_integer("rank", rank, at_least=2, at_most=width)
    if rank % 2:
        raise ProblemError(f"rank is {rank}; rotary positions keep whole pairs: it must be even")
    return rank // 2
