"""Documents of your own from one file: what a head or a layer reads, and what is known of what it makes of it."""

from pathlib import Path

import numpy as np

from attnreg.problems.checks import ProblemError

# The arrays that a file may have, and their shapes; other names are left alone.
NAMES = {"A": "(k, n, d)", "B": "(k, n, c)", "maps": "(k, n, n)", "Q": "(k, n, r)", "K": "(k, n, r)"}


def read_documents(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` or `.safetensors` file that have a name of `NAMES`, with k documents each.

    `A` (k, n, d) is what is read. Of the targets there may be `B` (k, n, c), outputs; `maps` (k, n, n); `Q` and `K`
    (k, n, r), the factors of the logits of the maps, after any turns, their scale folded in. Arrays without the axis k
    are one document.

    Raises:
        ProblemError: no such file, another kind of file, no A, arrays that are no finite real numbers or do not fit A;
            the message names the file and the array.
    """
    path = Path(path).expanduser()
    found = {name: _documents(name, value, path) for name, value in _read(path).items() if name in NAMES}
    if "A" not in found:
        raise ProblemError(f"{path} has no array 'A'; it must have the documents as A {NAMES['A']}")
    if ("Q" in found) != ("K" in found):
        raise ProblemError(f"{path} has one of 'Q' and 'K'; the factors of the logits are both, or neither")
    k, n = found["A"].shape[:2]
    for name, value in found.items():
        if value.shape[:2] != (k, n) or (name == "maps" and value.shape[2] != n):
            raise ProblemError(f"{path}: {name} is {value.shape}; it must be {NAMES[name]} with k = {k}, n = {n} as A")
    if "Q" in found and found["Q"].shape != found["K"].shape:
        raise ProblemError(f"{path}: Q is {found['Q'].shape}, K is {found['K'].shape}; they must be alike")
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name."""
    if path.suffix not in (".npz", ".safetensors"):
        raise ProblemError(f"path is {str(path)!r}; it must be a .npz or a .safetensors file of arrays A and targets")
    if not path.is_file():
        raise ProblemError(f"path is {str(path)!r}, and there is no such file; write one, e.g. with numpy.savez")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if name in NAMES}
        # Read here by our own layers only for models; `safetensors` is an optional package.
        from attnreg.data.models.extras import extra

        with extra("safetensors").safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in NAMES}  # noqa: SIM118
    except ProblemError:
        raise
    except Exception as error:  # zipfile, NumPy and safetensors have one of their own for each kind of damage
        raise ProblemError(f"{path} cannot be read ({error}): write it again") from error


def _documents(name: str, value: np.ndarray, path: Path) -> np.ndarray:
    """One array with its axis of documents."""
    if value.dtype.kind != "f" or value.ndim not in (2, 3) or not value.size:
        raise ProblemError(
            f"{path}: {name} has shape {value.shape} and dtype {value.dtype}; it must be floats {NAMES[name]}"
        )
    value = value if value.ndim == 3 else value[None]
    if not np.all(np.isfinite(value)):
        raise ProblemError(f"{path}: {name} has entries that are not finite; leave those documents out")
    return value
