"""Tokenize the frozen texts anew: how ``attnreg/data/embedded/texts.npz`` was made.

    python -m attnreg.data.tools.freeze_texts OUTPUT.npz

Needs the fetched model (for its vocabulary and its model card) and, for the very same ids, the ``pydoc_data``
of Python 3.11.7. Other versions of Python word their reference differently, which is why the ids are frozen.
"""

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attnreg.data.minilm.cache import cached_file
from attnreg.data.minilm.tokens import Vocabulary, load_vocabulary, tokenize

FROZEN_WITH = "3.11.7"
HELDOUT_EVERY = 3
_GRAM = 16
_REPEATED = 0.1


def without_repeats(texts: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The texts, by name, less those of which a tenth or more of the 16-token runs also stand in a longer
    text.

    Without this, training and held-out text would share pages: ``attribute-access`` is a part of
    ``specialnames``.
    """
    kept: dict[str, Sequence[int]] = {}
    seen: set[tuple[int, ...]] = set()
    for name in sorted(texts, key=lambda name: (-len(texts[name]), name)):
        ids = texts[name]
        grams = {tuple(ids[i : i + _GRAM]) for i in range(len(ids) - _GRAM + 1)}
        if len(grams & seen) <= _REPEATED * len(grams):
            kept[name] = ids
        seen |= grams
    return dict(sorted(kept.items()))


def freeze(vocabulary: Vocabulary, topics: Mapping[str, str], card: str) -> dict[str, np.ndarray]:
    """The three streams of token ids; every third topic, in alphabetical order, is held out."""
    kept = without_repeats({name: tokenize(text, vocabulary) for name, text in topics.items()})
    heldout = set(list(kept)[HELDOUT_EVERY - 1 :: HELDOUT_EVERY])
    parts = {
        "docs": [ids for name, ids in kept.items() if name not in heldout],
        "docs_heldout": [ids for name, ids in kept.items() if name in heldout],
        "card": [tokenize(card, vocabulary)],
    }
    return {name: np.concatenate([np.asarray(ids, np.uint16) for ids in lists]) for name, lists in parts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    from pydoc_data.topics import topics  # slow to import, and wanted here only

    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.freeze_texts", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("output", type=Path, help="the .npz file to write")
    options = parser.parse_args(argv)
    if platform.python_version() != FROZEN_WITH:
        print(f"note: Python {platform.python_version()} here; the shipped ids are from Python {FROZEN_WITH}.")
    frozen = freeze(load_vocabulary(), topics, cached_file("README.md").read_text(encoding="utf-8"))
    np.savez_compressed(options.output, **frozen)  # pyright: ignore[reportArgumentType]
    print(", ".join(f"{name}: {len(ids)} tokens" for name, ids in frozen.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
