"""From text to token ids and back, by the package `tokenizers`, which is asked for only here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attnreg.data.models.extras import extra
from attnreg.problems.checks import ProblemError


class Tokenizer(Protocol):
    """What every model's tokenizer can do."""

    def encode(self, text: str) -> np.ndarray:
        """The token ids of a text, (n,) int32, with the marks that this model puts around a text."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids (n,), without such marks."""
        ...

    def strings(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The string of each token of ids (n,), for labels."""
        ...


@dataclass(frozen=True)
class FastTokenizer:
    """A tokenizer of the package `tokenizers`."""

    backend: Any

    def encode(self, text: str) -> np.ndarray:
        """The token ids of a text, (n,) int32."""
        return np.asarray(self.backend.encode(text).ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids (n,)."""
        return self.backend.decode([int(i) for i in ids])

    def strings(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The text of each token of ids (n,), marks as they are spelled."""
        return tuple(self.backend.decode([int(i)], skip_special_tokens=False) for i in ids)


def folder_tokenizer(folder: Path) -> FastTokenizer:
    """The tokenizer of `tokenizer.json` in a folder; any truncation and padding that the file asks for is switched off.

    Raises:
        ProblemError: the file is missing or damaged, or the package `tokenizers` is not installed.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ProblemError(f"{folder} has no tokenizer.json: get it, or pass token ids of your own")
    tokenizers: Any = extra("tokenizers")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ProblemError(f"{path} is no tokenizer ({error}): get it again") from error
    backend.no_truncation()
    backend.no_padding()
    return FastTokenizer(backend)


def byte_pairs(
    vocabulary: Sequence[str], merges: Sequence[str], marks: Sequence[str], *, digits: bool
) -> FastTokenizer:
    """A byte-level BPE tokenizer, of GPT-2's kind, from its vocabulary in the order of ids and its merges in theirs.

    `marks` are tokens that no text is cut into, such as the end of a text; with `digits` each digit is a piece alone.
    """
    tokenizers: Any = extra("tokenizers")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = tokenizers.models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=pairs)
    backend = tokenizers.Tokenizer(model)
    pieces = tokenizers.pre_tokenizers
    byte_level = pieces.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = (
        pieces.Sequence([pieces.Digits(individual_digits=True), byte_level]) if digits else byte_level
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(mark, special=True, normalized=False) for mark in marks])
    return FastTokenizer(backend)
