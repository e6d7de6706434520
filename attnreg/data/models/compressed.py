"""A model whose heads have a smaller rank: the same shapes for the forward pass, the small factors for a key cache.

Head i of a layer has queries q, keys k of its group j, and projections P_i (w, r) and S_j (w, r): its logits become
`(q P_i)(k S_j)ᵀ`. A cache stores k S_j, r numbers in place of w. The same logits come from weights of the old shapes,
`W_q P_i S_jᵀ` beside the old W_k, and with rotary positions too, where `P_i S_jᵀ` commutes with every rotation.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from attnreg.data.models.config import ModelConfig
from attnreg.data.models.extras import extra
from attnreg.data.models.parameters import Dense, Model
from attnreg.data.models.rotary import rotate
from attnreg.problems.checks import ProblemError, check_integer, replaced

FORMAT, VERSION = "attnreg compressed heads", 1
DESCRIBED = ("family", "layers", "width", "heads", "groups", "head_width", "rotary_layout")


class Projections(NamedTuple):
    """The projections of one layer: query (h, w, r), one for each head, and key (g, w, r), one for each key head."""

    query: np.ndarray
    key: np.ndarray


class CompressedHeads(NamedTuple):
    """What a file of compressed heads holds.

    Attributes:
        projections: of every layer.
        merged: of every layer its query projection in the old shape, w (d, h·w) and b (h·w,) or None.
        query, key: of every layer what makes q P and k S, w (h, d, r) and (g, d, r), b (h, r) and (g, r) or None.
        metadata: strings; `rank` and `config`, the numbers of the model that they were made for, among them.
    """

    projections: tuple[Projections, ...]
    merged: tuple[Dense, ...]
    query: tuple[Dense, ...]
    key: tuple[Dense, ...]
    metadata: dict[str, str]

    def into(self, model: Model) -> Model:
        """The model with the merged weights in place of its own.

        Raises:
            ProblemError: it is not a model of these numbers.
        """
        made_for, config = json.loads(self.metadata["config"]), _described(model.config)
        if made_for != config:
            different = ", ".join(name for name in DESCRIBED if made_for.get(name) != config[name])
            raise ProblemError(f"model differs in {different} from the one that these heads were made for: load that")
        return _with_queries(model, self.merged)


def replace_heads(model: Model, projections: Sequence[Projections]) -> Model:
    """The model with all heads compressed, all shapes as before.

    Args:
        model: from `attnreg.data.models.load_model`.
        projections: one of each layer, query (h, w, r) and key (g, w, r).

    Precision: products in float64, rounded once to the dtype of the model (tests/data/models/test_compressed.py).

    Raises:
        ProblemError: projections that do not fit the model, or that do not commute with its rotary positions.
    """
    return _with_queries(model, [_merged(model, i, part) for i, part in enumerate(_checked(model, projections))])


def key_cache_bytes(config: ModelConfig, rank: int | None = None, *, bytes_each: int = 2) -> int:
    """Bytes of keys that one token leaves in the caches of all layers; rank None is that of the model as it is."""
    rank = config.head_width if rank is None else rank
    check_integer("rank", rank, at_least=1, at_most=config.head_width)
    return config.layers * config.groups * rank * bytes_each


def save_compressed(
    path: str | Path, model: Model, projections: Sequence[Projections], metadata: Mapping[str, str] | None = None
) -> None:
    """Write compressed heads to a ``.safetensors`` file: projections, merged weights and the factors of a cache.

    Args:
        path: of the file. model: whose heads they are.
        projections: one of each layer, query (h, w, r) and key (g, w, r).
        metadata: more strings to keep.

    Raises:
        ProblemError: projections that do not fit the model, or the package `safetensors` is not installed.
    """
    save: Any = extra("safetensors.numpy").save
    tensors: dict[str, np.ndarray] = {}
    for i, part in enumerate(_checked(model, projections)):
        layer = model.parameters.layers[i]
        dense = {
            "merged": _merged(model, i, part),
            "query": _factor(layer.query, part.query),
            "key": _factor(layer.key, part.key),
        }
        for name, (w, b) in dense.items():
            tensors[f"layers.{i}.{name}.weight"] = np.asarray(w)
            if b is not None:
                tensors[f"layers.{i}.{name}.bias"] = np.asarray(b)
        for name, array in part._asdict().items():
            tensors[f"layers.{i}.projections.{name}"] = np.asarray(array, np.float64)
    rank = projections[0].query.shape[2]
    said = {
        "format": FORMAT,
        "version": str(VERSION),
        "rank": str(rank),
        "config": json.dumps(_described(model.config)),
    }
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(
        save({name: np.ascontiguousarray(a) for name, a in tensors.items()}, {**(metadata or {}), **said})
    )
    os.replace(partial, path)


def load_compressed(path: str | Path) -> CompressedHeads:
    """What `save_compressed` wrote.

    Raises:
        ProblemError: no such file, not such a file, or the package `safetensors` is not installed.
    """
    safetensors: Any = extra("safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ProblemError(f"{path} cannot be read as safetensors ({error}): pass a file of save_compressed") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(VERSION)):
        raise ProblemError(f"{path} holds no compressed heads of version {VERSION}: pass a file of save_compressed")
    layers = range(json.loads(metadata["config"])["layers"])

    def dense(name: str) -> tuple[Dense, ...]:
        found = [(tensors[f"layers.{i}.{name}.weight"], tensors.get(f"layers.{i}.{name}.bias")) for i in layers]
        return tuple(Dense(jnp.asarray(w), None if b is None else jnp.asarray(b)) for w, b in found)

    parts = tuple(
        Projections(*(tensors[f"layers.{i}.projections.{name}"] for name in Projections._fields)) for i in layers
    )
    return CompressedHeads(parts, dense("merged"), dense("query"), dense("key"), metadata)


def _described(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in DESCRIBED}


def _with_queries(model: Model, queries: Sequence[Dense]) -> Model:
    layers = tuple(old._replace(query=new) for old, new in zip(model.parameters.layers, queries, strict=True))
    return replaced(model, parameters=model.parameters._replace(layers=layers))


def _merged(model: Model, layer: int, part: Projections) -> Dense:
    """The query projection times P Sᵀ, head by head, in its old shape."""
    shared = np.repeat(np.asarray(part.key, np.float64), model.config.shared, axis=0)
    w, b = _factor(model.parameters.layers[layer].query, np.asarray(part.query) @ shared.swapaxes(1, 2))
    return Dense(w.transpose(1, 0, 2).reshape(w.shape[1], -1), None if b is None else b.reshape(-1))


def _factor(dense: Dense, projections: np.ndarray) -> Dense:
    """A projection's heads times theirs (heads, w, r): w (heads, d, r) and b (heads, r), rounded to its dtype."""
    heads = len(projections)

    def of(x: Any) -> Any:
        each = np.asarray(x, np.float64).reshape(-1, heads, projections.shape[1])
        return np.einsum("dhw,hwr->hdr", each, np.asarray(projections, np.float64)).astype(x.dtype)

    return Dense(jnp.asarray(of(dense.w)), None if dense.b is None else jnp.asarray(of(dense.b)[:, 0]))


def _checked(model: Model, projections: Sequence[Projections]) -> Sequence[Projections]:
    config = model.config
    if len(projections) != config.layers:
        raise ProblemError(f"projections has {len(projections)} layers; the model has {config.layers}")
    for i, part in enumerate(projections):
        rank = np.shape(part.query)[-1] if np.ndim(part.query) == 3 else 0
        want = [(config.heads, config.head_width, rank), (config.groups, config.head_width, rank)]
        if [np.shape(array) for array in part] != want:
            shapes = [np.shape(array) for array in part]
            raise ProblemError(f"projections[{i}] has shapes {shapes}; they must be (h, w, r), (g, w, r), as in {want}")
        if config.rotary_width and (away := _turning(config, part)) > 1e-6:
            raise ProblemError(
                f"projections[{i}]: P Sᵀ differs by {away:.1e} of its size when it is turned by rotary positions, "
                f"which it must commute with: take those of attnreg.fit.RotaryGroup"
            )
    return projections


def _turning(config: ModelConfig, part: Projections) -> float:
    """How far P Sᵀ is from commuting with rotations, relative to its size, for the worst head."""
    width = config.head_width
    # Angles that differ from pair to pair, in place of the model's own, of which many are nearly zero.
    angles = [1.0 + 0.37 * i for i in range(config.rotary_width // 2)]
    rows = jnp.stack([jnp.zeros((width, width)), jnp.eye(width)], axis=1)
    T = np.asarray(rotate(rows, angles, config.rotary_layout))[:, 1]
    C = np.asarray(part.query) @ np.repeat(part.key, config.shared, axis=0).swapaxes(1, 2)
    away = np.linalg.norm(C @ T - T @ C, axis=(1, 2))
    return float(np.max(away / np.maximum(np.linalg.norm(C, axis=(1, 2)), np.finfo(np.float64).tiny)))
