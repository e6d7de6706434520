"""The two real attention heads that ship with the package, and how a head instance is kept in a file.

The files are compressed NumPy archives without pickled objects. Activations are kept in half precision: that is an
instance of its own, whose targets differ from the model's map, the reduced head's by 2.3e-4 of its norm and the
full-size head's by 6e-4.
"""

from importlib import resources
from pathlib import Path
from typing import IO

import numpy as np
from jax.typing import DTypeLike

from attnreg.data.minilm.instance import HeadInstance
from attnreg.problems.arrays import check_dtype

_FLOATS = ("Q", "K", "V", "Q_heldout", "K_heldout", "V_heldout", "W_O")
_INPUTS = ("A", "A_heldout")
_WEIGHTS = ("Q", "K", "Y")


def save_head(file: Path, instance: HeadInstance) -> None:
    """Write an instance to a file that `load_head` reads.

    A full-size instance is kept as its inputs (half precision) and its true weights (single): `load_head` makes its
    queries, keys and values from them, so that the weights stay an exact solution. Inputs rounded to half precision
    lose `A u = 1` (`attnreg.data.minilm.heads.ones_direction`); the file holds u, and `load_head` brings it back.

    Args:
        file: where to; ends in ``.npz``.
        instance: one of principal components with a column of ones, or one of all columns with its true weights.

    Precision: half, 2⁻¹¹ of every entry (tests/data/test_embedded.py).
    Cost: at full size one least-squares problem of (k + k') n rows.

    Raises:
        ValueError: the last column of reduced inputs is not ones, or an entry is too large for half precision.
    """
    halves = _whole(instance) if instance.true_factors is not None else _reduced(instance)
    for name, array in halves.items():
        if not np.abs(array).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{name} has entries that half precision cannot hold (above 65504 or not finite).")
    arrays = {name: array.astype(np.float16) for name, array in halves.items()}
    if instance.true_factors is not None and instance.true_Y is not None:
        rows = np.concatenate([getattr(instance, name).reshape(-1, instance.A.shape[-1]) for name in _INPUTS])
        ones = np.linalg.lstsq(rows.astype(np.float64), np.ones(len(rows)), rcond=None)[0]
        exact = dict(zip(_WEIGHTS, (*instance.true_factors, instance.true_Y), strict=True))
        exact |= dict(W_O=instance.W_O, ones=ones)
        arrays |= {f"true_{name}": array.astype(np.float32) for name, array in exact.items()}
    ids = np.concatenate([instance.ids, instance.ids_heldout])
    known, first = np.unique(ids, return_index=True)
    np.savez_compressed(
        file,
        allow_pickle=False,
        name=np.array(instance.name),
        place=np.array([instance.layer, instance.head], np.uint16),
        ids=instance.ids.astype(np.uint16),
        ids_heldout=instance.ids_heldout.astype(np.uint16),
        known_ids=known.astype(np.uint16),
        known_tokens=np.array(instance.tokens + instance.tokens_heldout).ravel()[first],
        sources=np.array(instance.sources),
        sources_heldout=np.array(instance.sources_heldout),
        **arrays,  # pyright: ignore[reportArgumentType]
    )


def _reduced(instance: HeadInstance) -> dict[str, np.ndarray]:
    """What is kept in half precision of an instance of principal components."""
    for name in _INPUTS:
        if not np.all(getattr(instance, name)[..., -1] == 1):
            raise ValueError(f"{name} has no last column of ones, which components need to carry the biases.")
    arrays = {name: getattr(instance, name) for name in _FLOATS}
    return arrays | {name: getattr(instance, name)[..., :-1] for name in _INPUTS}


def _whole(instance: HeadInstance) -> dict[str, np.ndarray]:
    """What is kept in half precision of a full-size instance."""
    return {name: getattr(instance, name) for name in _INPUTS}


def load_head(file: Path | IO[bytes], *, dtype: DTypeLike = np.float32) -> HeadInstance:
    """Read an instance that `save_head` wrote; its floating-point arrays in ``dtype``.

    Those of a reduced instance are exactly as kept. At full size ``A`` is moved along u by the rounding that took
    ``A u`` from 1, and queries, keys and values are ``A`` times the true weights, computed in float64.
    """
    with np.load(file, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    floats = _from_weights(arrays) if "true_ones" in arrays else _as_kept(arrays)
    weights = [floats.pop(f"true_{name}").astype(dtype) if f"true_{name}" in floats else None for name in _WEIGHTS]
    Q, K, Y = weights
    word = dict(zip(arrays["known_ids"].tolist(), arrays["known_tokens"].tolist(), strict=True))
    return HeadInstance(
        name=str(arrays["name"]),
        layer=int(arrays["place"][0]),
        head=int(arrays["place"][1]),
        true_factors=None if Q is None or K is None else (Q, K),
        true_Y=Y,
        ids=arrays["ids"].astype(np.int32),
        ids_heldout=arrays["ids_heldout"].astype(np.int32),
        tokens=tuple(tuple(word[i] for i in row) for row in arrays["ids"].tolist()),
        tokens_heldout=tuple(tuple(word[i] for i in row) for row in arrays["ids_heldout"].tolist()),
        sources=tuple(arrays["sources"].tolist()),
        sources_heldout=tuple(arrays["sources_heldout"].tolist()),
        **{name: array.astype(dtype) for name, array in floats.items()},
    )


def _as_kept(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The floating-point fields of a reduced instance."""
    ones = ((0, 0), (0, 0), (0, 1))
    inputs = {name: np.pad(arrays[name], ones, constant_values=1) for name in _INPUTS}
    return {name: arrays[name] for name in _FLOATS} | inputs


def _from_weights(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The floating-point fields of a full-size instance, in float64."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items() if array.dtype.kind == "f"}
    u = wide.pop("true_ones")
    floats = {"W_O": wide.pop("true_W_O")}
    for name in _INPUTS:
        A = wide.pop(name)
        A = A + ((1 - A @ u) / (u @ u))[..., None] * u
        floats[name] = A
        for output, weight in zip("QKV", _WEIGHTS, strict=True):
            floats[output + name[1:]] = A @ wide[f"true_{weight}"]
    return floats | wide


def load_embedded_head(*, dtype: DTypeLike = np.float32) -> HeadInstance:
    """The reduced head that ships with the package: all-MiniLM-L6-v2, layer 5, head 2, 8 + 4 documents of 64 tokens.

    Its inputs are the first 16 principal components of the activations and a column of ones, so d = 17. It
    needs no network and no model. ``attnreg/data/embedded/NOTICE.md`` has its origin and licence, and
    `attnreg.data.tools.embed` is the command that made it. Of the held-out documents, the first two are of the
    same kind of text as the training documents and the other two of another kind.

    Example:
        >>> instance = load_embedded_head()
        >>> instance.A.shape, instance.Q.shape, instance.A_heldout.shape
        ((8, 64, 17), (8, 64, 32), (4, 64, 17))
        >>> instance.tokens[0][:6]
        ('[CLS]', 'the', '"', 'assert', '"', 'statement')
    """
    return _shipped("minilm_layer5_head2.npz", dtype)


def load_full_head(*, dtype: DTypeLike = np.float32) -> HeadInstance:
    """The head that ships at its full width: all-MiniLM-L6-v2, layer 2, head 3, 4 + 2 documents of 512 tokens.

    It reads all 384 columns, so the map determines X = Q Kᵀ, 147,456 numbers, up to the softmax gauge; the true factors
    and Y come along. It needs no network and no model. The texts are prose of the Python reference; of the two held-out
    ones, the second is of another kind (the model card). Origin and licence as for `load_embedded_head`.

    Example:
        >>> instance = load_full_head()
        >>> instance.A.shape, instance.A_heldout.shape, instance.true_factors[0].shape
        ((4, 512, 384), (2, 512, 384), (384, 32))
        >>> " ".join(instance.tokens_heldout[0][1:9])
        'if the definition occurs in a function block'
    """
    return _shipped("minilm_layer2_head3_full.npz", dtype)


def _shipped(name: str, dtype: DTypeLike) -> HeadInstance:
    check_dtype("dtype", dtype, host=True)
    with resources.files("attnreg.data").joinpath(f"embedded/{name}").open("rb") as file:
        return load_head(file, dtype=dtype)
