"""The real attention head that ships with the package, and how a head instance is kept in a file.

The file is a compressed NumPy archive without pickled objects. Floating-point arrays are kept in half
precision: that is an instance of its own, whose targets differ from the model's map by 2.3e-4 of its norm.
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


def save_head(file: Path, instance: HeadInstance) -> None:
    """Write a reduced instance to a file that `load_head` reads.

    Args:
        file: where to; ends in ``.npz``.
        instance: one of principal components with a column of ones (a full-size one is better recomputed).

    Precision: half, 2⁻¹¹ of every entry (tests/data/test_embedded.py).

    Raises:
        ValueError: the last column of the inputs is not ones, or an entry is too large for half precision.
    """
    for name in _INPUTS:
        if not np.all(getattr(instance, name)[..., -1] == 1):
            raise ValueError(f"{name} has no last column of ones; only instances of components can be saved.")
    arrays = {name: getattr(instance, name) for name in _FLOATS}
    arrays |= {name: getattr(instance, name)[..., :-1] for name in _INPUTS}
    for name, array in arrays.items():
        if not np.abs(array).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{name} has entries that half precision cannot hold (above 65504 or not finite).")
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
        **{name: array.astype(np.float16) for name, array in arrays.items()},
    )


def load_head(file: Path | IO[bytes], *, dtype: DTypeLike = np.float32) -> HeadInstance:
    """Read an instance that `save_head` wrote; its floating-point arrays, exactly as kept, in ``dtype``."""
    with np.load(file, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    ones = ((0, 0), (0, 0), (0, 1))
    inputs = {name: np.pad(arrays[name], ones, constant_values=1).astype(dtype) for name in _INPUTS}
    word = dict(zip(arrays["known_ids"].tolist(), arrays["known_tokens"].tolist(), strict=True))
    return HeadInstance(
        name=str(arrays["name"]),
        layer=int(arrays["place"][0]),
        head=int(arrays["place"][1]),
        true_factors=None,
        true_Y=None,
        ids=arrays["ids"].astype(np.int32),
        ids_heldout=arrays["ids_heldout"].astype(np.int32),
        tokens=tuple(tuple(word[i] for i in row) for row in arrays["ids"].tolist()),
        tokens_heldout=tuple(tuple(word[i] for i in row) for row in arrays["ids_heldout"].tolist()),
        sources=tuple(arrays["sources"].tolist()),
        sources_heldout=tuple(arrays["sources_heldout"].tolist()),
        **{name: arrays[name].astype(dtype) for name in _FLOATS},
        **inputs,
    )


def load_embedded_head(*, dtype: DTypeLike = np.float32) -> HeadInstance:
    """The head that ships with the package: all-MiniLM-L6-v2, layer 5, head 2, 8 + 4 documents of 64 tokens.

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
    check_dtype("dtype", dtype, host=True)
    with resources.files("attnreg.data").joinpath("embedded/minilm_layer5_head2.npz").open("rb") as file:
        return load_head(file, dtype=dtype)
