"""The four ways to compress the heads of one layer to a rank: three closed forms, and ours."""

import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model, Projections, layer_weights
from attnreg.fit.compression import compress_head, map_error, output_error
from attnreg.fit.cuts import closed_forms, root
from attnreg.fit.rotary_compression import RotaryGroup
from experiments.compress.data import LayerTexts

CLOSED = ("weights", "logits", "centred")
OURS = "ours"
METHODS = (*CLOSED, OURS)
TARGETS = ("maps", "outputs")


class Found(NamedTuple):
    """One layer at one rank: projections of each method, seconds (h,) that ours took, and its pull (h,).

    With rotary positions there is no pull, and in its place is the number of the metric that chose the pairs: 0 logits,
    1 centred logits, 2 maps or outputs.
    """

    projections: dict[str, Projections]
    seconds: np.ndarray
    pull: np.ndarray


class LayerMethods:
    """The methods on one layer; what does not depend on the rank is computed once."""

    def __init__(self, model: Model, layer: int, parts: dict[str, LayerTexts], fit: Any) -> None:
        self.config, self.fit, self.parts = model.config, fit, parts
        self.weights = layer_weights(model, layer)
        O = np.asarray(model.parameters.layers[layer].output.w, np.float64)
        # v Rᵀ is as long as v O, and has w numbers.
        self.roots = [root(part.T).T for part in O.reshape(model.config.heads, model.config.head_width, -1)]
        self.groups: dict[int, RotaryGroup] = {}

    def at(self, rank: int) -> Found:
        """All methods at one rank."""
        found = [self._pairs(g, rank) for g in range(self.config.groups)] if self.config.rotary_width else None
        found = found or [self._head(h, rank) for h in range(self.config.heads)]
        made, seconds, pulls = zip(*found, strict=True)
        parts = {
            name: Projections(*(np.concatenate([each[name][i] for each in made]) for i in (0, 1))) for name in METHODS
        }
        return Found(parts, np.concatenate(seconds), np.concatenate(pulls))

    def _head(self, h: int, rank: int):
        train, heldout = (self.parts[name].of(h, h) for name in ("train", "heldout"))
        forms = closed_forms(self.weights.Q[h], self.weights.K[h], *train[:2], rank)
        causal, written = self.config.causal, {}
        if self.fit.targets == "outputs":
            written = {name: self.parts[name].values(h, self.roots[h]) for name in ("train", "heldout")}
            heldout = (*heldout, written["heldout"])
        error: Any = output_error if written else map_error
        start = min(forms.values(), key=lambda form: error(*heldout, form, causal))
        begun = time.perf_counter()
        ours = compress_head(
            *train, rank, heldout=heldout, values=written.get("train"), causal=causal, start=start,
            pulls=self.fit.pulls, steps=self.fit.steps,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        made = {name: (form.Q[None], form.K[None]) for name, form in {**forms, OURS: ours.projections}.items()}
        return made, [seconds], [ours.pull]

    def _pairs(self, g: int, rank: int):
        shared = self.config.shared
        heads = slice(g * shared, (g + 1) * shared)
        begun = time.perf_counter()
        train, heldout = (self._group(self.parts[name], g) for name in ("train", "heldout"))
        if g not in self.groups:
            values = train[3] if len(train) > 3 else None
            self.groups[g] = RotaryGroup(*train[:3], layout=self.config.rotary_layout, values=values)
        forms = self.groups[g].closed_forms(self.weights.Q[heads], self.weights.K[g * shared], rank)
        ours = self.groups[g].compress(rank, heldout, steps=self.fit.rotary_steps)
        seconds = (time.perf_counter() - begun) / shared
        made = {name: (form.Q, form.K[None]) for name, form in {**forms, OURS: ours.projections}.items()}
        return made, [seconds] * shared, [float(list(self.groups[g].metrics).index(ours.start))] * shared

    def _group(self, part: LayerTexts, g: int) -> tuple[Any, ...]:
        """q (h, t, n, w), k (t, n, w) and maps (h, t, n, n) of the heads of a group, with outputs also their values."""
        own = range(g * self.config.shared, (g + 1) * self.config.shared)
        q, maps = (jnp.stack([array[:, h] for h in own]) for array in (part.q, part.maps))
        if self.fit.targets == "maps":
            return q, part.k[:, g], maps
        return q, part.k[:, g], maps, np.stack([part.values(g, self.roots[h]) for h in own])
