"""What heads of a model, of a file, or of a random layer, read and write, in three sets of texts."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnreg.data.layers import layer_maps, layer_outputs
from attnreg.data.minilm.encoder import LAYERS, LONGEST, load_minilm
from attnreg.data.minilm.heads import layer_weights
from attnreg.data.minilm.instance import layer_inputs
from attnreg.data.minilm.texts import three_parts
from attnreg.problems.checks import ProblemError, check_choice, check_integer
from attnreg.problems.layer import LayerWeights
from experiments.recover import sources

SOURCES, TARGETS = ("minilm", "synthetic", "model", "arrays"), ("outputs", "maps")
PARTS = ("train", "heldout", "test")


class Activations(NamedTuple):
    """Inputs (k, n, d) of training, held-out and test texts; what they are turned into is asked of `targets`.

    Held-out texts decide when to stop and which weights to keep, for every method; test texts are looked at once.

    like: weights in the shapes of a fit of the true ranks, NaN where the truth is not known.
    true: they, where it is. logits: options of every fit and loss, `causal` and `rotary`.
    given: targets from a file, by part and kind; None where `true` makes them.
    """

    train: np.ndarray
    heldout: np.ndarray
    test: np.ndarray
    like: LayerWeights
    true: LayerWeights | None
    title: str
    logits: dict[str, Any]
    given: dict[str, dict[str, np.ndarray]] | None = None

    def targets(self, kind: str, part: str, documents: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and outputs (k, n, c) or maps (k, n, n) of the first texts of a part, in the dtype of the inputs."""
        A = getattr(self, part)[:documents]
        if self.given is not None:
            if kind not in self.given[part]:
                name = "B" if kind == "outputs" else "maps, or Q and K"
                raise ProblemError(f"targets is {kind!r}, but the file of data.path has no {name}; add it")
            return A, self.given[part][kind][:documents].astype(A.dtype)
        assert self.true is not None  # as `given` is None
        make = layer_outputs if kind == "outputs" else layer_maps
        return A, make(self.true, A, **self.logits).astype(A.dtype)


def load(config: Any, head: int | None) -> Activations:
    """The activations that `config.data` names: of one head and its own output, or of all heads adding up."""
    data = config.data
    check_choice("data.source", data.source, SOURCES)
    names = ("documents", "heldout_documents", "test_documents")
    for name in names:
        check_integer(f"data.{name}", data[name], at_least=1)
    sizes = [max((data.documents, *config.texts)), *(data[name] for name in names[1:])]
    if data.source == "arrays":
        found = sources.arrays(config, sizes, whole_layer=head is None)
        train, heldout, test = (part.astype(config.precision) for part in found.inputs)
        given: dict[str, dict[str, np.ndarray]] = dict(zip(PARTS, found.given, strict=True))
        return Activations(train, heldout, test, found.like, None, found.title, found.logits, given)
    logits: dict[str, Any] = {}
    if data.source == "model":
        parts, every, logits = sources.model(config, sizes)
    else:
        parts, every = _minilm(config, sizes) if data.source == "minilm" else _synthetic(config, sizes)
    true, what = (every, f"{len(every.Q)} heads") if head is None else (one_head(every, head), f"head {head}")
    model = "MiniLM-L6" if data.source == "minilm" else Path(data.model).name
    name = "random layer" if data.source == "synthetic" else f"{model} layer {data.layer}"
    title = f"{name}, {what}, {data.documents} texts of {data.tokens} tokens"
    train, heldout, test = (part.astype(config.precision) for part in parts)
    return Activations(train, heldout, test, true, true, title, logits)


def one_head(every: LayerWeights, head: int) -> LayerWeights:
    """The weights of one head of a layer, with the keys and values that it reads."""
    check_integer("data.head", head, at_least=0, at_most=len(every.Q) - 1)
    group = head // (len(every.Q) // len(every.K))
    return LayerWeights(every.Q[head : head + 1], *(W[group : group + 1] for W in every[1:3]))


def _minilm(config: Any, sizes: list[int]) -> tuple[list[np.ndarray], LayerWeights]:
    data = config.data
    check_integer("data.layer", data.layer, at_least=0, at_most=LAYERS - 1)
    check_integer("data.tokens", data.tokens, at_least=3, at_most=LONGEST)
    encoder = load_minilm(dtype=jnp.dtype(config.precision))
    weights = layer_weights(encoder, data.layer)
    ids = three_parts(data.tokens, *sizes)
    return [layer_inputs(encoder, part, data.layer) for part in ids[:3]], weights


def _synthetic(config: Any, sizes: list[int]) -> tuple[list[np.ndarray], LayerWeights]:
    """Inputs of unequal variances and a random layer whose logits have standard deviation `sharpness`."""
    data, made = config.data, config.data.synthetic
    rng = np.random.default_rng([config.seed, data.layer])
    spread = np.geomspace(1, 1 / made.condition, made.width)
    spread *= np.sqrt(made.width / np.sum(spread**2))
    shape = (made.heads, made.width, config.rank)
    Q, K, V = (rng.normal(size=shape) / made.width**0.5 for _ in range(3))
    O = rng.normal(size=(made.heads, config.rank, made.width)) / config.rank**0.5
    weights = LayerWeights(Q * made.sharpness / config.rank**0.5, K, V, O)
    return [rng.normal(size=(k, data.tokens, made.width)) * spread for k in sizes], weights
