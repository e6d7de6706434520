"""What a fit of a layer returns: weights, losses, what the data determine, predictions, a file, a picture."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.determined import Determined
from attnreg.objectives.factors import Factors
from attnreg.objectives.layer import LayerObjective
from attnreg.problems.checks import ProblemError, check_number
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.reprs import compact
from attnreg.problems.rotary import Rotary

LAYER_UNIT = "squared error / squared deviation from the column mean"
MAP_UNIT = "squared error / squared norm of the maps"


class Logits(NamedTuple):
    """How a fit makes logits of what it projects: turns without positions, scale and soft cap, or None; a causal mask.

    Args:
        causal: keys ≤ query only. rotary: a `Rotary`. scale, soft_cap: positive scalars, floats.
    """

    causal: bool = False
    rotary: Rotary | None = None
    scale: float | None = None
    soft_cap: float | None = None

    def options(self, positions: ArrayLike | None = None) -> dict[str, Any]:
        """What a problem on other documents is made with; `positions` are theirs."""
        rotary = self.rotary
        if positions is not None:
            if rotary is None:
                raise ProblemError("positions are given, but the fit has no rotary positions")
            rotary = dataclasses.replace(rotary, positions=positions)
        return self._replace(rotary=rotary)._asdict()

    def arrays(self) -> dict[str, Any]:
        """As arrays for a file; what is None is left out."""
        kept = {"causal": self.causal, "scale": self.scale, "soft_cap": self.soft_cap}
        if self.rotary is not None:
            kept |= {"rotary": [self.rotary.layout], "frequencies": self.rotary.turns()}
        return {name: value for name, value in kept.items() if value is not None}

    @classmethod
    def read(cls, file: Any) -> "Logits":
        """From what `arrays` wrote, or a file of before there were turns."""
        scale, soft_cap = (float(file[name]) if name in file else None for name in ("scale", "soft_cap"))
        rotary = None
        if "rotary" in file:
            frequencies = file["frequencies"]
            rotary = Rotary(2 * len(frequencies), layout=str(file["rotary"][0]), frequencies=frequencies)  # type: ignore[arg-type]
        return cls(bool(file["causal"]), rotary, scale, soft_cap)


PLAIN = Logits()


def checked_logits(causal: bool, rotary: Any, scale: Any, soft_cap: Any) -> Logits:
    """The record of a fit's options; a `Rotation` is refused, as it holds for no other documents."""
    if rotary is not None and not isinstance(rotary, Rotary):
        raise ProblemError(f"rotary is a {type(rotary).__name__}; it must be a Rotary, e.g. Rotary(width=64, base=1e4)")
    for name, value in (("scale", scale), ("soft_cap", soft_cap)):
        if value is not None:
            check_number(name, value, above=0)
    numbers = (None if value is None else float(value) for value in (scale, soft_cap))
    return Logits(bool(causal), None if rotary is None else rotary.bare(), *numbers)


@dataclasses.dataclass(frozen=True, repr=False)
class Fitted:
    """What every fit from activations returns.

    Attributes:
        weights: NumPy arrays, for the inputs as they were given.
        train, heldout: losses in `unit`; heldout is NaN without held-out documents.
        reason: why it ended: "tolerance", "seconds" or "stalled".
        determined: what the inputs determine.
        seconds: wall time. trace: (seconds, phase, step, train, heldout) per event.
        logits: how logits are made: causal mask, turns, scale and soft cap.
    """

    weights: Any
    train: float
    heldout: float
    reason: str
    determined: Determined
    seconds: float
    trace: tuple[tuple[float, str, int, float, float], ...]
    logits: Logits = PLAIN
    unit: ClassVar[str]
    kind: ClassVar[Any]

    def __repr__(self) -> str:
        return compact(self)

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz file."""
        arrays: dict[str, Any] = {name: W for name, W in self.weights._asdict().items() if W is not None}
        trace: dict[str, Any] = {f"trace_{i}": np.asarray([row[i] for row in self.trace]) for i in range(5)}
        np.savez(
            path, **arrays, **trace, losses=[self.train, self.heldout, self.seconds], reason=self.reason,
            determined=self.determined, **self.logits.arrays(),
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            weights = cls.kind(*(file.get(name) for name in cls.kind._fields))
            columns = [file[f"trace_{i}"].tolist() for i in range(5)]
            train, heldout, seconds = (float(value) for value in file["losses"])
            known = Determined(*(int(value) for value in file["determined"]))
            trace = tuple(zip(*columns, strict=True))
            return cls(weights, train, heldout, str(file["reason"]), known, seconds, trace, Logits.read(file))

    def plot(self, axes: Any = None) -> Any:
        """Training and held-out loss over seconds, on Matplotlib axes; returns the axes."""
        if axes is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError(
                    "plot() draws with Matplotlib, which is not installed: pip install matplotlib"
                ) from error
            axes = plt.subplots()[1]
        seconds = [row[0] for row in self.trace]
        axes.semilogy(seconds, [row[3] for row in self.trace], ":", label="train")
        if not math.isnan(self.heldout):
            axes.semilogy(seconds, [row[4] for row in self.trace], label="held out")
        axes.set(xlabel="seconds", ylabel=self.unit)
        axes.legend()
        return axes


@dataclasses.dataclass(frozen=True, repr=False)
class LayerFit(Fitted):
    """Outcome of `fit_layer`; the unit of losses is the squared deviation from the column mean.

    Args:
        weights: `LayerWeights` of NumPy floats Q, K (h, d, r), V (h, d, s), O (h, s, c) or None, for the inputs as
            given.
        train, heldout, reason, determined, seconds, trace, logits: see `Fitted`; losses are plain floats.

    Precision: `predict` runs in the dtype of the weights.
    Cost: `predict` is one forward pass.
    Source: what `attnreg.fit.recovery` and `attnreg.fit.from_maps` found.
    """

    unit: ClassVar[str] = LAYER_UNIT
    kind: ClassVar[Any] = LayerWeights

    def predict(self, A: ArrayLike, mask: ArrayLike | None = None, *, positions: ArrayLike | None = None) -> np.ndarray:
        """The outputs (k, n, c) of the fitted layer for inputs A (…, n, d); positions (…, n) of a rotary layer."""
        return predict(self.weights, A, mask=mask, **self.logits.options(positions))


@dataclasses.dataclass(frozen=True, repr=False)
class MapFit(Fitted):
    """Outcome of `fit_attention`; the unit of losses is the squared norm of the maps.

    Args:
        weights: `Factors` of NumPy floats Q, K (d, r), for the inputs as given.
        train, heldout, reason, determined, seconds, trace, logits: see `Fitted`; losses are plain floats.

    Precision: `predict` runs in the dtype of the weights.
    Cost: `predict` is one forward pass.
    Source: what `attnreg.fit.recovery` and `attnreg.fit.from_maps` found.
    """

    unit: ClassVar[str] = MAP_UNIT
    kind: ClassVar[Any] = Factors

    def predict(self, A: ArrayLike, mask: ArrayLike | None = None, *, positions: ArrayLike | None = None) -> np.ndarray:
        """The maps (k, n, n) of the fitted head for inputs A (…, n, d); positions (…, n) of a rotary head."""
        Q, K = (jnp.asarray(W) for W in self.weights)
        A = jnp.asarray(A, Q.dtype)
        reads = LayerRegression(A, A, mask, **self.logits.options(positions))
        weights = LayerWeights(Q[None], K[None], jnp.zeros((1, A.shape[-1], A.shape[-1]), A.dtype))
        return np.asarray(LayerObjective(reads, 1, Q.shape[1]).maps(weights))[:, 0]


def predict(weights: LayerWeights, A: ArrayLike, *, mask: ArrayLike | None = None, **logits: Any) -> np.ndarray:
    """`Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h`, (k, n, c), for inputs A (…, n, d).

    Options are those of `LayerRegression`: `causal`, `rotary`, `scale`, `soft_cap`. Queries share keys (and values)
    where the weights have fewer heads of them.
    """
    weights = LayerWeights._make(None if W is None else jnp.asarray(W) for W in weights)
    A = jnp.asarray(A, weights.Q.dtype)
    width = (weights.V if weights.O is None else weights.O).shape[2]
    problem = LayerRegression(A, jnp.zeros((*A.shape[:-1], width), A.dtype), mask, **logits)
    h, _, r = weights.Q.shape
    s = None if weights.O is None else weights.O.shape[1]
    objective = LayerObjective(problem, h, r, s, key_heads=len(weights.K))
    return np.asarray(objective.predict(weights))
