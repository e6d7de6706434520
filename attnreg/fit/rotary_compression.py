"""Heads with rotary positions that keep some of their pairs of columns: which, and by which scales, after the softmax.

Query heads that share keys keep the same pairs, since the keys are what a cache stores (`attnreg.fit.rotary_pairs`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
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
        train, heldout: squared error of the maps relative to their squared norm, (h,) each.
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

    Precision: float32 sums over texts, scales in float64.
    Cost: once, three sums of (w, w) Gram matrices over all pairs of tokens, for each head.
    Raises: ProblemError for shapes that do not fit, or an unknown layout.
    Source: derived at the head of attnreg/fit/rotary_pairs.py.
    """

    def __init__(self, q: ArrayLike, k: ArrayLike, maps: ArrayLike, *, layout: str = "half") -> None:
        check_choice("layout", layout, LAYOUTS)
        self.q, self.k, self.maps = _checked(q, k, maps, layout)
        self.layout, self.width = layout, 2 * self.q.shape[3]
        found = [pairs.metrics(q, self.k, maps) for q, maps in zip(self.q, self.maps, strict=True)]
        self.metrics = {name: np.stack([each[name] for each in found]) for name in pairs.METRICS}
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
        self,
        rank: int,
        heldout: tuple[ArrayLike, ArrayLike, ArrayLike],
        *,
        starts: Sequence[str] = ("centred", "maps"),
        steps: int = STEPS,
    ) -> CompressedGroup:
        """The pairs and scales whose maps are nearest to the heads' own, after the softmax.

        For each start the pairs are chosen in its metric; "maps" is the curvature of the loss at the heads as they
        are. Levenberg–Marquardt then moves the scales, and held-out texts choose among all steps of all starts.

        Args:
            rank: r, even. heldout: q (h, t, n, w), k (t, n, w) and maps (h, t, n, n) of texts that decide.
            starts: metrics. steps: at most so many.
        """
        half = _pairs_of(rank, self.width)
        check_integer("steps", steps, at_least=1)
        for start in starts:
            check_choice("starts", start, pairs.METRICS)
        judge = _checked(*heldout, self.layout)
        if half == self.width // 2:
            kept, scales = self._chosen("centred", rank)
            none = np.zeros(len(self.q))
            return CompressedGroup(
                pairs.projections(kept, scales, self.width, self.layout), none, none, kept, "centred"
            )
        fits = [self._fit(start, rank, judge, steps) for start in starts]
        return min(fits, key=lambda fit: float(np.sum(fit.heldout)))

    def _fit(self, start: str, rank: int, judge: tuple, steps: int) -> CompressedGroup:
        kept, scales = self._chosen(start, rank)
        found = []
        for h, x in enumerate(scales):
            train = (self.q[h][:, :, kept], self.k[:, :, kept], self.maps[h])
            held = (judge[0][h][:, :, kept], judge[1][:, :, kept], judge[2][h])
            found.append(_levenberg_marquardt(train, held, x, steps))
        x, train, held = (np.asarray(part) for part in zip(*found, strict=True))
        factors = pairs.projections(kept, x, self.width, self.layout)
        return CompressedGroup(factors, train, held, kept, start)

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
        return kept, np.tile(np.repeat([1.0, 0.0], half), (len(self.q), 1))


# Queries, keys and maps of some texts, as `rotary_pairs` takes them.
Part = tuple[jax.Array, jax.Array, jax.Array]


def _levenberg_marquardt(train: Part, heldout: Part, x: np.ndarray, steps: int):
    """The best scales on held-out texts among the steps from x, with their train and held-out error."""
    unit, judged = (float(jnp.sum(part[2] ** 2)) for part in (train, heldout))
    f32 = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    here, mu = pairs.fitted(*train, f32(x)), _DAMPING
    best = (x, float(here.value) / unit, pairs.loss(*heldout, f32(x)) / judged)
    for _ in range(steps):
        H, g = (np.asarray(part, np.float64) for part in (here.matrix, here.gradient))
        damping = mu * np.diag(H) + 1e-8 * np.trace(H) / len(H)
        trial = x - np.linalg.solve(H + np.diag(damping), g)
        value = pairs.loss(*train, f32(trial))
        gain = float(here.value) - value
        if not gain > 0:
            if mu > 1e3:
                break
            mu *= 10
            continue
        x, mu = trial, mu / 5
        error = pairs.loss(*heldout, f32(x)) / judged
        if error < best[2]:
            best = (x, value / unit, error)
        if gain < _ENOUGH * value:
            break
        here = pairs.fitted(*train, f32(x))
    return best


def _checked(q: ArrayLike, k: ArrayLike, maps: ArrayLike, layout: str):
    q, k, maps = np.asarray(q), np.asarray(k), jnp.asarray(maps, jnp.float32)
    if q.ndim != 4 or k.shape != q.shape[1:] or maps.shape != (*q.shape[:3], q.shape[2]):
        raise ProblemError(
            f"q, k and maps have shapes {q.shape}, {k.shape} and {maps.shape}; they must be (h, t, n, w), (t, n, w) "
            f"and (h, t, n, n)"
        )
    return jnp.asarray(pairs.in_pairs(q, layout)), jnp.asarray(pairs.in_pairs(k, layout)), maps


def _pairs_of(rank: int, width: int) -> int:
    check_integer("rank", rank, at_least=2, at_most=width)
    if rank % 2:
        raise ProblemError(f"rank is {rank}; rotary positions keep whole pairs: it must be even")
    return rank // 2
