"""Texts through a model of your own, and documents of your own from a file."""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnreg.data.files import read_documents
from attnreg.data.layers import head_map
from attnreg.data.models import load_model, load_tokenizer
from attnreg.data.models.regression import layer_regression
from attnreg.data.models.windows import text_windows
from attnreg.problems.checks import ProblemError, check_flag, check_integer
from attnreg.problems.layer import LayerWeights
from attnreg.problems.rotary import Rotary


class Arrays(NamedTuple):
    """Documents of a file in three parts, their targets by kind, and how logits are made."""

    inputs: list[np.ndarray]
    given: list[dict[str, np.ndarray]]
    like: LayerWeights
    logits: dict[str, Any]
    title: str


def model(config: Any, sizes: list[int]) -> tuple[list[np.ndarray], LayerWeights, dict[str, Any]]:
    """What a layer of `data.model` reads in three parts, its weights, and the options of its logits."""
    data = config.data
    if not data.model:
        raise ProblemError("data.model is empty; name a model ('minilm', 'smollm2') or a folder with config.json")
    found = load_model(data.model, dtype=jnp.dtype(config.precision))
    ids = text_windows(load_tokenizer(data.model), sizes, data.tokens, text=data.text)
    layer = layer_regression(found, data.layer, ids)
    return list(layer.inputs), layer.true, dict(causal=layer.causal, rotary=layer.rotary)


def arrays(config: Any, sizes: list[int], *, whole_layer: bool) -> Arrays:
    """The file of `data.path`: its first documents are for training, then the held-out ones, then those of the test."""
    data, options = config.data, config.data.arrays
    if not data.path:
        raise ProblemError("data.path is empty; data.source='arrays' needs a .npz or .safetensors file")
    found = read_documents(data.path)
    k, n, d = found["A"].shape
    if k < sum(sizes):
        raise ProblemError(
            f"{data.path} has {k} documents; {' + '.join(map(str, sizes))} are asked for: lower data.documents, "
            f"data.heldout_documents, data.test_documents (or texts)"
        )
    check_flag("data.arrays.causal", options.causal)
    if "Q" in found and "maps" not in found:
        found["maps"] = head_map(found["Q"], found["K"], causal=options.causal)
    kinds = {kind: found[name] for kind, name in (("outputs", "B"), ("maps", "maps")) if name in found}
    cuts = np.cumsum([0, *sizes])
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    given = [{kind: value[part] for kind, value in kinds.items()} for part in parts]
    heads = options.heads if whole_layer else 1
    check_integer("data.arrays.heads", heads, at_least=1)
    like = _shapes(
        d, found["B"].shape[2] if "B" in found else config.rank, heads, options.key_heads or heads, config.rank
    )
    logits = dict(causal=options.causal, rotary=_rotary(options.rotary))
    title = f"{data.path}, {heads} head{'s' * (heads > 1)}, {data.documents} documents of {n} rows"
    return Arrays([found["A"][part] for part in parts], given, like, logits, title)


def _shapes(d: int, c: int, heads: int, key_heads: int, rank: int) -> LayerWeights:
    """NaN for weights that nobody knows; values no wider than their outputs need no second factor."""
    check_integer("data.arrays.key_heads", key_heads, at_least=1, at_most=heads)

    def blank(*shape: int) -> Any:
        return np.full(shape, np.nan)

    Q, K = blank(heads, d, rank), blank(key_heads, d, rank)
    if heads == 1 or c <= rank:
        return LayerWeights(Q, K, blank(heads, d, c))
    return LayerWeights(Q, K, K, blank(heads, rank, c))


def _rotary(options: Any) -> Rotary | None:
    """The turns that the config declares for the head of a file; width 0 is none."""
    return Rotary(options.width, options.base, options.layout) if options.width else None
