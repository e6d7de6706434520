"""Texts of one length for any model: from a file of yours, or from the texts that ship."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attnreg.data.minilm.texts import stream
from attnreg.data.models.named import WordPieces
from attnreg.data.models.tokens import Tokenizer
from attnreg.problems.checks import ProblemError, check_integer


def text_windows(tokenizer: Tokenizer, counts: Sequence[int], n: int, *, text: str | Path = "") -> list[np.ndarray]:
    """Windows of n tokens that do not overlap, one array (count, n) int32 for each of `counts`.

    A window has the marks that the tokenizer puts around a text, as every text of that model has. With `text`, a file
    in UTF-8, the windows are consecutive. Without, the first array is of the frozen stream "docs" and the others are of
    "docs_heldout", as tokens where the tokenizer is MiniLM's, else spelled out (which asks for MiniLM's vocabulary).

    Raises:
        ProblemError: no such file, no such length, or too little text; the message says how much there is.
    """
    check_integer("tokens", n, at_least=1)
    for count in counts:
        check_integer("count", count, at_least=1)
    before, after = _marks(tokenizer)
    body = n - len(before) - len(after)
    if body < 1:
        raise ProblemError(f"tokens is {n}; it must be above {len(before) + len(after)}, the marks around each text")
    if text:
        pieces = _cut(_tokens(tokenizer, _read(text)), body, counts, f"the text {str(text)!r}")
    else:
        pieces = _cut(_shipped(tokenizer, "docs"), body, counts[:1], "the text 'docs' that ships")
        if counts[1:]:
            pieces += _cut(_shipped(tokenizer, "docs_heldout"), body, counts[1:], "the text 'docs_heldout' that ships")
    return [
        np.concatenate([np.tile(before, (len(ids), 1)), ids, np.tile(after, (len(ids), 1))], axis=1).astype(np.int32)
        for ids in pieces
    ]


def _cut(ids: np.ndarray, body: int, counts: Sequence[int], what: str) -> list[np.ndarray]:
    """Consecutive windows (count, body) for each count."""
    have, wanted = len(ids) // body, sum(counts)
    if have < wanted:
        raise ProblemError(
            f"{what} has {have} windows of {body} tokens, and {wanted} are asked for: give a longer text, fewer "
            f"documents or fewer tokens"
        )
    rows = ids[: wanted * body].reshape(wanted, body)
    return np.split(rows, np.cumsum(counts)[:-1])


def _marks(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """What the tokenizer puts in front of a text and behind it."""
    marks, some = np.asarray(tokenizer.encode("")), np.asarray(tokenizer.encode("a"))
    for split in range(len(marks), -1, -1):
        behind = marks[split:]
        if np.array_equal(some[:split], marks[:split]) and np.array_equal(some[len(some) - len(behind) :], behind):
            return marks[:split], behind
    return marks[:0], marks[:0]


def _tokens(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The token ids of a text without marks."""
    before, after = _marks(tokenizer)
    ids = np.asarray(tokenizer.encode(text))
    return ids[len(before) : len(ids) - len(after)]


def _shipped(tokenizer: Tokenizer, name: str) -> np.ndarray:
    """The token ids of a frozen text; those of another tokenizer are made from its words."""
    if isinstance(tokenizer, WordPieces):
        return stream(name)
    return _tokens(tokenizer, WordPieces().decode(stream(name)))


def _read(text: str | Path) -> str:
    path = Path(text).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ProblemError(f"text is {str(text)!r}, and there is no such file; name a file of plain text") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"text is {str(text)!r}, which is no readable text in UTF-8 ({error})") from error
