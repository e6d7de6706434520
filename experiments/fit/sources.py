"""What `experiments.fit.map` fits of a model or a file of your own."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnreg.data.files import read_documents
from attnreg.data.layers import head_map
from attnreg.data.minilm.instance import principal_components
from attnreg.data.models import load_model, load_tokenizer
from attnreg.data.models.regression import layer_regression
from attnreg.data.models.windows import text_windows
from attnreg.objectives.factors import Factors
from attnreg.problems.checks import ProblemError, check_flag, check_integer
from attnreg.problems.rotary import Rotary


class Head(NamedTuple):
    """A head on documents (k, n, d), training and unseen: the factors of its logits after any turns, or its maps.

    `labels` are the tokens of the first document of each part, or None; `truth` is None where it is not known.
    """

    inputs: list[np.ndarray]
    logits: list[tuple[np.ndarray, np.ndarray]] | None
    maps: list[np.ndarray] | None
    truth: Factors | None
    causal: bool
    rotary: Rotary | None
    labels: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    title: str


def model(config: Any) -> Head:
    """Head `data.head` of layer `data.layer` of `data.model`."""
    data = config.data
    if not data.model:
        raise ProblemError("data.model is empty; name a model ('minilm', 'smollm2') or a folder with config.json")
    found, tokenizer = load_model(data.model, dtype=jnp.dtype(config.precision)), load_tokenizer(data.model)
    check_integer("data.head", data.head, at_least=0, at_most=found.config.heads - 1)
    ids = text_windows(tokenizer, _counts(data), data.tokens, text=data.text)
    layer = layer_regression(found, data.layer, ids)
    Q, K = layer.true.Q[data.head], layer.true.K[data.head // found.config.shared]
    logits = []
    for A in layer.inputs:
        q, k = A.astype(np.float64) @ Q, A.astype(np.float64) @ K
        if layer.rotary is not None:
            q, k = (layer.rotary.turned(x, np.arange(x.shape[1])) for x in (q, k))
        logits.append((q, k))
    labels = (tokenizer.strings(ids[0][0]), tokenizer.strings(ids[1][0]))
    title = f"{data.model} layer {data.layer} head {data.head}, {len(ids[0])} × {data.tokens} tokens"
    truth = Factors(jnp.asarray(Q, config.precision), jnp.asarray(K, config.precision))
    head = Head(list(layer.inputs), logits, None, truth, layer.causal, layer.rotary, labels, title)
    return _reduced(head, data.components)


def arrays(config: Any) -> Head:
    """The documents of `data.path`: the first are for training, those after them unseen."""
    data, options = config.data, config.data.arrays
    if not data.path:
        raise ProblemError("data.path is empty; data.source='arrays' needs a .npz or .safetensors file")
    found = read_documents(data.path)
    train, unseen = _counts(data)
    if len(found["A"]) < train + unseen:
        raise ProblemError(
            f"{data.path} has {len(found['A'])} documents; {train} + {unseen} are asked for: lower the numbers of "
            f"data.train and data.heldout"
        )
    check_flag("data.arrays.causal", options.causal)
    parts = (slice(train), slice(train, train + unseen))
    logits = maps = None
    if "maps" in found:
        maps = [found["maps"][part] for part in parts]
    elif "Q" in found:
        logits = [(found["Q"][part], found["K"][part]) for part in parts]
    else:
        raise ProblemError(f"{data.path} has no maps, or Q and K; experiments.fit needs them, recover_head takes B")
    turns = options.rotary
    rotary = Rotary(turns.width, turns.base, turns.layout) if turns.width else None
    title = f"{data.path}, {train} × {found['A'].shape[1]} rows"
    head = Head([found["A"][part] for part in parts], logits, maps, None, options.causal, rotary, (None, None), title)
    return _reduced(head, data.components)


def targets(head: Head, part: int) -> np.ndarray:
    """The maps (k, n, n) of a part."""
    if head.maps is not None:
        return head.maps[part]
    assert head.logits is not None  # as a head has one of both
    return head_map(*head.logits[part], causal=head.causal)


def _counts(data: Any) -> list[int]:
    """Documents for training and unseen ones; the names of texts in the config are those of MiniLM's."""
    counts = [sum(dict(data[name]).values()) for name in ("train", "heldout")]
    for name, count in zip(("data.train", "data.heldout"), counts, strict=True):
        check_integer(name, count, at_least=1)
    return counts


def _reduced(head: Head, components: int) -> Head:
    """In principal components of the training documents and a column of ones, where the config asks for it."""
    if not components:
        return head
    most = min(head.inputs[0].shape[2], head.inputs[0].shape[0] * head.inputs[0].shape[1]) - 1
    check_integer("data.components", components, at_least=1, at_most=most)
    inputs = list(principal_components(head.inputs[0], head.inputs[1], components))
    return head._replace(inputs=inputs, truth=None, title=f"{head.title}, {components} components")
