"""The model, its texts in three sets, and what each layer's attention makes of them, one layer after the other."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.minilm.texts import three_parts, windows
from attnreg.data.models import Model, ModelConfig, load_model, load_tokenizer
from attnreg.data.models.blocks import block, embed
from attnreg.data.models.random import random_model
from attnreg.data.models.windows import text_windows
from attnreg.problems.checks import ProblemError, check_choice, check_integer

PARTS = ("train", "heldout", "test")
SOURCES = ("minilm", "model", "random encoder", "random decoder")


class Texts(NamedTuple):
    """A model and token ids: of three parts (k, n), and of the texts that judge the whole model (k', n')."""

    model: Model
    parts: dict[str, np.ndarray]
    judge: np.ndarray
    title: str


class LayerTexts(NamedTuple):
    """One layer on the texts of one part.

    q (k, h, n, w) with the scale folded in and k (k, g, n, w), both behind rotary positions, v (k, g, n, w), and maps
    (k, h, n, n).
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    maps: jax.Array

    def of(self, head: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q (k, n, w), k (k, n, w) and maps (k, n, n) of one head."""
        return np.asarray(self.q[:, head]), np.asarray(self.k[:, group]), np.asarray(self.maps[:, head])

    def values(self, group: int, onto: np.ndarray) -> np.ndarray:
        """v (k, n, w) of one head times a matrix (w, c)."""
        return np.asarray(self.v[:, group], np.float64) @ onto


def load(config: Any) -> Texts:
    """What `config.data` names."""
    data = config.data
    check_choice("data.source", data.source, SOURCES)
    for name in ("documents", "heldout_documents", "test_documents", "judge_documents"):
        check_integer(f"data.{name}", data[name], at_least=1)
    counts = [data.documents, data.heldout_documents, data.test_documents]
    if data.source.startswith("random"):
        return _random(config, counts)
    if data.source == "model" and not data.model:
        raise ProblemError("data.model is empty; name a model ('minilm', 'smollm2') or a folder with config.json")
    name = "minilm" if data.source == "minilm" else data.model
    ids, judge = _minilm(data, counts) if data.source == "minilm" else _windows(data, counts)
    title = f"{Path(name).name}, {data.documents} texts of {data.tokens} tokens"
    return Texts(load_model(name), dict(zip(PARTS, ids, strict=True)), judge, title)


def _random(config: Any, counts: list[int]) -> Texts:
    data = config.data
    model = random_model(data.source.split()[1], config.seed, **data.random)
    rng = np.random.default_rng([config.seed, 1])
    draw = lambda k, n: rng.integers(0, model.config.vocabulary, size=(k, n))  # noqa: E731
    ids = [draw(count, data.tokens) for count in counts]
    return Texts(model, dict(zip(PARTS, ids, strict=True)), draw(data.judge_documents, data.judge_tokens), "random")


def _minilm(data: Any, counts: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows of the frozen texts, and further ones that judge."""
    *ids, taken = three_parts(data.tokens, *counts)
    first = -(-taken * (data.tokens - 2) // (data.judge_tokens - 2))
    return ids, windows("docs_heldout", data.judge_tokens, data.judge_documents, first=first)


def _windows(data: Any, counts: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """The same of any model: windows of a text of yours or of those that ship, and later ones that judge."""
    tokenizer = load_tokenizer(data.model)
    ids = text_windows(tokenizer, counts, data.tokens, text=data.text)
    # Without a text of yours only held-out and test windows are in front of those that judge.
    taken = sum(counts if data.text else counts[1:]) * data.tokens
    skipped = [*([] if data.text else [1]), -(-taken // data.judge_tokens)]
    return ids, text_windows(tokenizer, [*skipped, data.judge_documents], data.judge_tokens, text=data.text)[-1]


def walk(texts: Texts, first: int = 0) -> Iterator[tuple[int, dict[str, LayerTexts]]]:
    """Layers from `first` on, in order, each with its parts; hidden states go from one to the next."""
    config, parameters = texts.model.config, texts.model.parameters
    bare = parameters._replace(layers=(), unembedding=None)
    hidden = {name: _embedded(config, bare, jnp.asarray(ids)) for name, ids in texts.parts.items()}
    for i, layer in enumerate(parameters.layers):
        if i < first:
            hidden = {name: _passed(config, layer, H)[0] for name, H in hidden.items()}
            continue
        done = {name: _passed(config, layer, H) for name, H in hidden.items()}
        hidden = {name: after for name, (after, _) in done.items()}
        yield i, {name: part for name, (_, part) in done.items()}


@partial(jax.jit, static_argnums=0)
def _embedded(config: ModelConfig, parameters: Any, ids: Any) -> Any:
    return jax.lax.map(lambda text: embed(config, parameters, text), ids)


@partial(jax.jit, static_argnums=0)
def _passed(config: ModelConfig, layer: Any, hidden: Any) -> tuple[Any, LayerTexts]:
    allowed = jnp.asarray(np.tri(hidden.shape[1], dtype=bool)) if config.causal else None

    def one(H: Any) -> tuple[Any, LayerTexts]:
        after, trace = block(config, layer, H, allowed)
        return after, LayerTexts(trace.q_rotated * config.scale, trace.k_rotated, trace.v, trace.maps)

    return jax.lax.map(one, hidden)
