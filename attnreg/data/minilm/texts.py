"""The frozen texts: token ids that ship with the package, so that no result depends on a Python version.

Three streams, cut into windows of any length up to 512 (licences: `attnreg/data/embedded/NOTICE.md`):

* ``docs``, topics of the Python language reference: the training text;
* ``docs_heldout``, other topics of it, none of which repeats a training topic: unseen text of the same kind;
* ``card``, the model card of all-MiniLM-L6-v2: unseen text of another kind.

`attnreg.data.tools.freeze_texts` is the command that made them.
"""

from importlib import resources

import numpy as np

from attnreg.data.minilm.encoder import CLS, LONGEST, SEP
from attnreg.problems.checks import check_integer

STREAMS = ("docs", "docs_heldout", "card")


def stream(name: str) -> np.ndarray:
    """The token ids of a frozen text, (tokens,) int32, without ``[CLS]`` and ``[SEP]``.

    Raises:
        ValueError: there is no such stream.
    """
    if name not in STREAMS:
        raise ValueError(f"text is {name!r}; the frozen texts are {', '.join(STREAMS)}.")
    with (
        resources.files("attnreg.data").joinpath("embedded/texts.npz").open("rb") as file,
        np.load(file) as texts,
    ):
        return texts[name].astype(np.int32)


def windows(name: str, n: int, count: int, *, first: int = 0) -> np.ndarray:
    """Consecutive windows of a frozen text, each ``[CLS]``, n − 2 tokens of it, ``[SEP]``.

    Args:
        name: ``"docs"``, ``"docs_heldout"`` or ``"card"``.
        n: the length of a window, 3..512.
        count: how many windows.
        first: how many windows to skip.

    Returns:
        (count, n) int32 token ids. Windows do not overlap.

    Raises:
        ValueError: no such text, no such length, or the text is too short; the message says how many there
            are.

    Example:
        >>> ids = windows("card", 256, 2)
        >>> ids.shape, ids[:, 0].tolist(), ids[:, -1].tolist()
        ((2, 256), [101, 101], [102, 102])
    """
    check_integer("n", n)
    check_integer("count", count, at_least=1)
    check_integer("first", first, at_least=0)
    if not 3 <= n <= LONGEST:
        raise ValueError(f"n is {n}; a window has 3 to {LONGEST} tokens, [CLS] and [SEP] included.")
    tokens = stream(name)
    available = len(tokens) // (n - 2)
    if not 0 <= first <= first + count <= available:
        raise ValueError(
            f"windows {first} to {first + count - 1} of {n} tokens were asked of text {name!r}, which has "
            f"{available}: ask for fewer or shorter ones."
        )
    body = tokens[first * (n - 2) : (first + count) * (n - 2)].reshape(count, n - 2)
    return np.pad(np.pad(body, ((0, 0), (1, 0)), constant_values=CLS), ((0, 0), (0, 1)), constant_values=SEP)
