"""A model in the usual layout: a folder of `config.json`, `*.safetensors` (or several and an index), `tokenizer.json`.

The package `safetensors` reads the weights; it is asked for only here, so that `attnreg` does not need it.
"""

import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from attnreg.data.models.extras import extra
from attnreg.data.models.families import build
from attnreg.data.models.parameters import Model
from attnreg.data.models.reading import Options, Tensors
from attnreg.problems.arrays import check_dtype
from attnreg.problems.checks import ProblemError

INDEX = "model.safetensors.index.json"


def load_folder(folder: Path, *, dtype: DTypeLike = np.float32) -> Model:
    """The model of a folder; nothing is downloaded.

    Args:
        folder: has `config.json` and the weights, of 16, 32 or 64 bits, as `*.safetensors`.
        dtype: float32, or float64 (the same numbers; needs ``jax_enable_x64``).

    Cost: one tensor at a time is converted; the memory of the weights in `dtype`.

    Raises:
        ProblemError: a file is missing or damaged, the architecture or an option of it is not supported, or the
            package `safetensors` is not installed; the message names it and says what to do.
    """
    check_dtype("dtype", dtype)
    options = Options(read_json(folder, "config.json"), str(folder / "config.json"))
    safetensors: Any = extra("safetensors")
    with ExitStack() as stack:
        places: dict[str, Any] = {}
        for path in shards(folder):
            try:
                file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
            except safetensors.SafetensorError as error:
                raise ProblemError(f"{path} is damaged ({error}): get it again") from error
            _add(places, file, path)
        return build(options, Tensors(places, lambda name: places[name].get_tensor(name), str(folder), dtype))


def _add(places: dict[str, Any], file: Any, path: Path) -> None:
    """Note the names of one file; a name that another file has too is refused."""
    twice = sorted(places.keys() & set(file.keys()))
    if twice:
        raise ProblemError(
            f"{path.name} in {path.parent} has the tensor {twice[0]!r}, which another file there has too: leave "
            f"one set of weights in the folder"
        )
    places.update(dict.fromkeys(file.keys(), file))


def shards(folder: Path) -> list[Path]:
    """The files with the weights: those of the index, or else every `*.safetensors`."""
    if (folder / INDEX).is_file():
        places = read_json(folder, INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(_is_name(name) for name in places.values()):
            raise ProblemError(f"{folder / INDEX} has no weight_map from tensors to files of this folder: get it again")
        names: Iterable[str] = sorted(set(places.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ProblemError(f"{missing[0]} is missing in {folder}, though its index names it: get the whole folder")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        cure = "get them"
        if any(folder.glob("*.bin")):
            cure = "write those of *.bin anew, by `save_pretrained` of the package transformers"
        raise ProblemError(f"{folder} has no weights, *.safetensors: {cure}")
    return found


def _is_name(name: Any) -> bool:
    """A plain file name: an index is not to lead out of its folder."""
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the folder, which must hold one object."""
    path = folder / name
    if not path.is_file():
        raise ProblemError(
            f"{folder} has no {name}: a model is a folder with config.json, *.safetensors, tokenizer.json"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProblemError(f"{path} is not JSON ({error}): get it again") from error
    if not isinstance(found, dict):
        raise ProblemError(f"{path} holds a {type(found).__name__}, not an object: get it again")
    return found
