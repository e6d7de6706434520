"""Arrays that a run keeps: `<name>.npz` in its folder, whole or absent, read by `numpy.load` or by `load`."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runner.store.encoding import atomic

_MARK = b"attnreg: record.arrays"  # in the archive's comment: what --force may replace


def on_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """NumPy arrays with the values, shapes and dtypes of `arrays`; bfloat16 and smaller become float32, exactly.

    Raises:
        ValueError: for a name that is no identifier, or without any array. TypeError: for a value that is no array of
        numbers, or that other processes hold parts of.
    """
    if not arrays:
        raise ValueError("record.arrays needs at least one array, as name=array")
    found = {}
    for name, value in arrays.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,100}", name):
            raise ValueError(f"{name!r} is no name for an array: use letters, digits and _")
        found[name] = _on_host(name, value)
    return found


def _on_host(name: str, value: Any) -> np.ndarray:
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError(f"array {name!r} is a PRNG key; keep jax.random.key_data(key)")
        if not (value.is_fully_addressable or value.is_fully_replicated):
            raise TypeError(f"array {name!r} is spread over processes; gather it first (process_allgather)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"array {name!r} is no array of numbers ({error})") from None
    if array.dtype.kind == "V" and jnp.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"array {name!r} has dtype {array.dtype}; it must hold numbers or booleans")
    return array


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz archive atomically."""
    with atomic(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.comment = _MARK
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def ours(path: Path) -> bool:
    """Whether `record.arrays` wrote this archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _MARK
    except (OSError, zipfile.BadZipFile):
        return False


def load(workdir: Path | str, name: str = "solution") -> dict[str, np.ndarray]:
    """The arrays that a run kept with `record.arrays(name, ...)`.

    Raises:
        FileNotFoundError: when there is no such file; the message lists what is there. ValueError: when it is damaged.
    """
    path = Path(workdir) / f"{name}.npz"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.npz"))) or "none"
        raise FileNotFoundError(f"{path.parent} keeps no arrays {name!r}; there are: {there}")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
