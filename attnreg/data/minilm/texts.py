"""The frozen texts, and text to token ids and back.

The frozen texts are token ids that ship with the package, so that no result depends on a Python version. There are
three streams, cut into windows of any length up to 512 (licences: `attnreg/data/embedded/NOTICE.md`):

* ``docs``, topics of the Python language reference: the training text;
* ``docs_heldout``, other topics of it, none of which repeats a training topic: unseen text of the same kind;
* ``card``, the model card of all-MiniLM-L6-v2: unseen text of another kind.

`attnreg.data.tools.embed` is the command that made them. The tokenizer, for the one uncased WordPiece vocabulary of
that model, serves texts of your own and the labels of figures. It is written here, not taken from the ``tokenizers``
package, because that one brings huggingface_hub and an HTTP client along.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attnreg.data.cache import cached_file
from attnreg.data.minilm.encoder import CLS, LONGEST, SEP
from attnreg.problems.checks import ProblemError, check_choice, check_integer

STREAMS = ("docs", "docs_heldout", "card")
# Held-out windows of another kind, at most, and how much of the model card they may take.
CARDS, CARD_TOKENS = 8, 14 * 254
_LONGEST_WORD = 100
_CJK_BLOCKS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


def stream(name: str) -> np.ndarray:
    """The token ids of a frozen text, (tokens,) int32, without ``[CLS]`` and ``[SEP]``.

    Raises:
        ProblemError: there is no such stream.
    """
    check_choice("text", name, STREAMS)
    packed = resources.files("attnreg.data").joinpath("embedded/texts.npz")
    with packed.open("rb") as file, np.load(file) as texts:
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
        ProblemError: no such text, no such length, or the text is too short; the message says how many windows
            there are.

    Example:
        >>> ids = windows("card", 256, 2)
        >>> ids.shape, ids[:, 0].tolist(), ids[:, -1].tolist()
        ((2, 256), [101, 101], [102, 102])
    """
    check_integer("n", n, at_least=3, at_most=LONGEST)
    check_integer("count", count, at_least=1)
    check_integer("first", first, at_least=0)
    tokens = stream(name)
    available = len(tokens) // (n - 2)
    if first + count > available:
        raise ProblemError(
            f"windows {first} to {first + count - 1} of {n} tokens were asked of text {name!r}, which has "
            f"{available}: ask for fewer or shorter ones."
        )
    body = tokens[first * (n - 2) : (first + count) * (n - 2)].reshape(count, n - 2)
    return np.pad(np.pad(body, ((0, 0), (1, 0)), constant_values=CLS), ((0, 0), (0, 1)), constant_values=SEP)


class Parts(NamedTuple):
    """Windows in three parts.

    train, heldout, test: token ids (k, n) int32 of each. taken: how many windows of "docs_heldout" they take.
    """

    train: np.ndarray
    heldout: np.ndarray
    test: np.ndarray
    taken: int


def three_parts(n: int, documents: int, held: int, test: int) -> Parts:
    """Windows of n tokens in three parts; none is in two.

    Half of the held-out ones, but at most `CARDS`, are of another kind: the model card.

    Raises:
        ProblemError: as `windows`.

    >>> [part.shape for part in three_parts(64, 3, 4, 2)[:3]]
    [(3, 64), (4, 64), (2, 64)]
    """
    check_integer("n", n, at_least=3, at_most=LONGEST)
    cards = min(held // 2, CARDS, CARD_TOKENS // (n - 2))
    docs = held - cards
    unseen = [windows("docs_heldout", n, docs)] + ([windows("card", n, cards)] if cards else [])
    return Parts(
        windows("docs", n, documents),
        np.concatenate(unseen),
        windows("docs_heldout", n, test, first=docs),
        docs + test,
    )


def passage(name: str, start: int, n: int) -> np.ndarray:
    """One passage of a frozen text from its token `start`: ``[CLS]``, n − 2 tokens, ``[SEP]``; (n,) int32.

    Raises:
        ValueError: no such text, no such length, or the text ends before.

    >>> passage("docs", 510, 6).tolist()
    [101, 2043, 1037, 4539, 2003, 102]
    """
    check_integer("n", n, at_least=3, at_most=LONGEST)
    tokens = stream(name)
    check_integer("start", start, at_least=0, at_most=len(tokens) - (n - 2))
    return np.concatenate([[CLS], tokens[start : start + n - 2], [SEP]]).astype(np.int32)


@dataclass(frozen=True)
class Vocabulary:
    """The token strings in the order of their ids."""

    tokens: tuple[str, ...]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token string."""
        return {token: position for position, token in enumerate(self.tokens)}

    def strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The token strings of ``ids``; pieces that continue a word start with ``##``."""
        return tuple(self.tokens[i] for i in ids)


def load_vocabulary(cache: Path | None = None) -> Vocabulary:
    """The vocabulary of the fetched model (30522 tokens)."""
    return Vocabulary(tuple(cached_file("vocab.txt", cache).read_text(encoding="utf-8").splitlines()))


def tokenize(text: str, vocabulary: Vocabulary) -> list[int]:
    """The token ids of a text, without ``[CLS]`` and ``[SEP]``.

    Lower-cases, strips accents, splits off punctuation and CJK characters, then cuts each word greedily into
    the longest known pieces. ``[SEP]`` and the like inside the text are read as ordinary characters.

    Example:
        >>> words = Vocabulary(("[UNK]", "at", "##tend", "##s", "!"))
        >>> words.strings(tokenize("Átténds! Zebra", words))
        ('at', '##tend', '##s', '!', '[UNK]')
    """
    return [piece for word in _words(text) for piece in _pieces(word, vocabulary.ids)]


def _words(text: str) -> list[str]:
    """The words and single punctuation marks of a text, lower case and without accents."""
    visible = "".join(_visible(c) for c in text)
    spaced = "".join(f" {c} " if _is_cjk(c) else c for c in visible)
    bare = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    # Letter by letter: str.lower() of a whole word would turn a final capital sigma into another letter.
    lower = "".join(c.lower() for c in bare)
    return "".join(f" {c} " if _is_punctuation(c) else c for c in lower).split()


def _visible(c: str) -> str:
    """The character; a space for white space; nothing for a control character (U+0085 is one)."""
    if c in "\t\n\r":
        return " "
    if c == "\ufffd" or unicodedata.category(c).startswith("C"):
        return ""
    return " " if c.isspace() else c


def _is_cjk(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in _CJK_BLOCKS)


def _is_punctuation(c: str) -> bool:
    ascii_mark = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return ascii_mark or unicodedata.category(c).startswith("P")


def _pieces(word: str, ids: dict[str, int]) -> list[int]:
    """The ids of the longest known pieces, left to right; ``[UNK]`` alone if they do not cover the word."""
    found: list[int] = []
    start = 0
    while start < len(word) <= _LONGEST_WORD:
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in ids), None)
        if end is None:
            break
        found.append(ids[prefix + word[start:end]])
        start = end
    return found if start == len(word) else [ids["[UNK]"]]
