"""Text to token ids and back, for the one uncased WordPiece vocabulary that all-MiniLM-L6-v2 uses.

The frozen texts need none of this (their ids are stored); it serves texts of your own, the regeneration of
the frozen ids, and the labels of figures. Written here, not taken from the ``tokenizers`` package, because
that one brings huggingface_hub and an HTTP client along, and what is needed of it is the two functions below.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attnreg.data.minilm.cache import cached_file

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
