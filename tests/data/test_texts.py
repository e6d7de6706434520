"""The frozen texts: their windows, that held-out text is unseen, and that they are what the command makes."""

import platform

import numpy as np
import pytest

from attnreg.data.minilm.cache import cached_file
from attnreg.data.minilm.encoder import CLS, SEP
from attnreg.data.minilm.texts import STREAMS, stream, windows
from attnreg.data.minilm.tokens import tokenize
from attnreg.data.tools.freeze_texts import FROZEN_WITH, freeze, without_repeats


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
    with pytest.raises(ValueError, match=r"text is 'fortunes'.*docs, docs_heldout, card"):
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
