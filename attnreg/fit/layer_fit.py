"""What a fit of a layer returns: weights, losses, what the data determine, predictions, a file, a picture."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.coordinates import tokens_that_count
from attnreg.objectives.factors import Factors
from attnreg.objectives.layer import LayerObjective
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression, LayerWeights

LAYER_UNIT = "squared error / squared deviation from the column mean"
MAP_UNIT = "squared error / squared norm of the maps"


class Determined(NamedTuple):
    """What the inputs determine, by counting: unknowns, the rank of the inputs, and directions that change no output.

    free: per head, r² for (QG, KG⁻ᵀ); s² for (VG, G⁻¹O); the unknowns outside the span of the inputs; and where some w
    has A w = 1, r for K + w cᵀ, which softmax ignores, and the constant outputs that one head can hand to another.
    equations: numbers written on the queries that count; uniqueness needs at least `unknowns - free` of them.
    """

    unknowns: int
    input_rank: int
    free: int
    equations: int

    def describe(self) -> str:
        """One line.

        >>> Determined(36864, 384, 1056, 819200).describe()
        '35808 of 36864 unknowns determined by 819200 numbers; inputs of rank 384'
        """
        known = self.unknowns - self.free
        return (
            f"{known} of {self.unknowns} unknowns determined by {self.equations} numbers; "
            f"inputs of rank {self.input_rank}"
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What every fit from activations returns.

    Attributes:
        weights: NumPy arrays, for the inputs as they were given.
        train, heldout: losses in `unit`; heldout is NaN without held-out documents.
        reason: why it ended: "tolerance", "seconds" or "stalled".
        determined: what the inputs determine.
        seconds: wall time. trace: (seconds, phase, step, train, heldout) per event.
        causal: whether a query was taken to see earlier keys only.
    """

    weights: Any
    train: float
    heldout: float
    reason: str
    determined: Determined
    seconds: float
    trace: tuple[tuple[float, str, int, float, float], ...]
    causal: bool = False
    unit: ClassVar[str]
    kind: ClassVar[Any]

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz file."""
        arrays: dict[str, Any] = {name: W for name, W in self.weights._asdict().items() if W is not None}
        trace: dict[str, Any] = {f"trace_{i}": np.asarray([row[i] for row in self.trace]) for i in range(5)}
        np.savez(
            path, **arrays, **trace, losses=[self.train, self.heldout, self.seconds], reason=self.reason,
            determined=self.determined, causal=self.causal,
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
            return cls(weights, train, heldout, str(file["reason"]), known, seconds, trace, bool(file["causal"]))

    def plot(self, axes: Any = None) -> Any:
        """Training and held-out loss over seconds, on Matplotlib axes; returns the axes."""
        if axes is None:
            import matplotlib.pyplot as plt

            axes = plt.subplots()[1]
        seconds = [row[0] for row in self.trace]
        axes.semilogy(seconds, [row[3] for row in self.trace], ":", label="train")
        if not math.isnan(self.heldout):
            axes.semilogy(seconds, [row[4] for row in self.trace], label="held out")
        axes.set(xlabel="seconds", ylabel=self.unit)
        axes.legend()
        return axes


@dataclasses.dataclass(frozen=True)
class LayerFit(Fitted):
    """Outcome of `fit_layer`; the unit of losses is the squared deviation from the column mean.

    Args:
        weights: `LayerWeights` of NumPy floats Q, K (h, d, r), V (h, d, s), O (h, s, c) or None, for the inputs as
            given.
        train, heldout, reason, determined, seconds, trace, causal: see `Fitted`; losses are plain floats.

    Precision: `predict` runs in the dtype of the weights.
    Cost: `predict` is one forward pass.
    Source: what `attnreg.fit.recovery` and `attnreg.fit.from_maps` found.
    """

    unit: ClassVar[str] = LAYER_UNIT
    kind: ClassVar[Any] = LayerWeights

    def predict(self, A: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The outputs (k, n, c) of the fitted layer for inputs A (…, n, d)."""
        return predict(self.weights, A, mask=mask, causal=self.causal)


@dataclasses.dataclass(frozen=True)
class MapFit(Fitted):
    """Outcome of `fit_attention`; the unit of losses is the squared norm of the maps.

    Args:
        weights: `Factors` of NumPy floats Q, K (d, r), for the inputs as given.
        train, heldout, reason, determined, seconds, trace, causal: see `Fitted`; losses are plain floats.

    Precision: `predict` runs in the dtype of the weights.
    Cost: `predict` is one forward pass.
    Source: what `attnreg.fit.recovery` and `attnreg.fit.from_maps` found.
    """

    unit: ClassVar[str] = MAP_UNIT
    kind: ClassVar[Any] = Factors

    def predict(self, A: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The maps (k, n, n) of the fitted head for inputs A (…, n, d)."""
        Q, K = (jnp.asarray(W) for W in self.weights)
        A = jnp.asarray(A, Q.dtype)
        A = A.reshape(-1, *A.shape[-2:])
        reads = LayerRegression(A, A, mask, self.causal)
        weights = LayerWeights(Q[None], K[None], jnp.zeros((1, A.shape[2], A.shape[2]), A.dtype))
        return np.asarray(LayerObjective(reads, 1, Q.shape[1]).maps(weights))[:, 0]


def predict(weights: LayerWeights, A: ArrayLike, *, mask: ArrayLike | None = None, causal: bool = False) -> np.ndarray:
    """`Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h`, (k, n, c), for inputs A (…, n, d)."""
    weights = LayerWeights._make(None if W is None else jnp.asarray(W) for W in weights)
    A = jnp.asarray(A, weights.Q.dtype)
    width = (weights.V if weights.O is None else weights.O).shape[2]
    problem = LayerRegression(A, jnp.zeros((*A.shape[:-1], width), A.dtype), mask, causal)
    objective = LayerObjective(problem, *_sizes(weights))
    return np.asarray(objective.predict(weights))


def _sizes(weights: LayerWeights) -> tuple[int, int, int | None]:
    return weights.Q.shape[0], weights.Q.shape[2], None if weights.O is None else weights.O.shape[1]


def determined(objective: LayerObjective, input_rank: int) -> Determined:
    """`Determined` of an objective whose inputs have this rank."""
    _, _, d, c = objective.problem.sizes
    h, r, s = objective.heads, objective.rank, objective.value_rank
    queries = tokens_that_count(objective.problem)[1]
    width = c if s is None else s
    constant = _reads_a_constant(objective.problem)
    per_head = r * r + (0 if s is None else s * s) + (r if constant else 0) + (d - input_rank) * (2 * r + width)
    shared = max(h * width - c, 0) if constant else 0
    unknowns = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(objective.zeros)))
    return Determined(unknowns, input_rank, h * per_head + shared, int(queries.sum()) * c)


def determined_maps(problem: AttentionRegression, rank: int, input_rank: int) -> Determined:
    """`Determined` of queries and keys seen through their maps."""
    k, n, m, d, _ = problem.sizes
    reads = LayerRegression(problem.A1, problem.A1, problem.mask, problem.causal)
    free = rank**2 + (rank if _reads_a_constant(reads) else 0) + 2 * (d - input_rank) * rank
    return Determined(2 * d * rank, input_rank, free, k * n * (m - 1))


def _reads_a_constant(problem: LayerRegression) -> bool:
    """Whether some w has A w = 1 on every token: adding it to the keys changes no map."""
    A = np.asarray(problem.A, np.float64)[tokens_that_count(problem)[0]]
    w = np.linalg.lstsq(A, np.ones(A.shape[0]), rcond=None)[0]
    return bool(np.max(np.abs(A @ w - 1)) <= 1e4 * float(jnp.finfo(problem.dtype).eps))
