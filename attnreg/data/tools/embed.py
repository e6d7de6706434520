"""Make the files of ``attnreg/data/embedded`` anew from the fetched model.

    python -m attnreg.data.tools.embed head OUTPUT.npz
    python -m attnreg.data.tools.embed full OUTPUT.npz
    python -m attnreg.data.tools.embed texts OUTPUT.npz

``head`` and ``full``, the shipped attention heads, reduced and at full width: compute in float64 and keep half
precision. Another machine differs only where an entry lies within 1e-12 of the middle between two half-precision
numbers, and then by one unit in its last place.

``texts``, the frozen texts: takes the model's vocabulary and model card and, for the very same ids, the ``pydoc_data``
of Python 3.11.7. Other versions of Python word their reference differently, which is why the ids are frozen.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from attnreg.data.cache import ModelDamagedError, ModelMissingError, cached_file
from attnreg.data.minilm.embedded import save_head
from attnreg.data.minilm.encoder import load_minilm
from attnreg.data.minilm.instance import HeadInstance, head_instance, minilm_head
from attnreg.data.minilm.texts import Vocabulary, load_vocabulary, passage, tokenize

FROZEN_WITH = "3.11.7"
HELDOUT_EVERY = 3
# Flowing prose, each from the start of a sentence: the tokens of the frozen texts at which the passages begin.
PROSE = {"docs": (510, 5336, 8341, 25425)}  # assignment, calls, exceptions, the life of objects
PROSE_HELDOUT = {"docs_heldout": (9145,), "card": (986,)}  # scopes of names; how the model was made
_GRAM = 16
_REPEATED = 0.1


def without_repeats(texts: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """The texts by name, without those that repeat a longer one: a tenth or more of their 16-token runs stand there.

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
    """The three streams of token ids, each (tokens,) uint16; every third topic, in alphabetical order, is held out."""
    kept = without_repeats({name: tokenize(text, vocabulary) for name, text in topics.items()})
    heldout = set(list(kept)[HELDOUT_EVERY - 1 :: HELDOUT_EVERY])
    parts = {
        "docs": [ids for name, ids in kept.items() if name not in heldout],
        "docs_heldout": [ids for name, ids in kept.items() if name in heldout],
        "card": [tokenize(card, vocabulary)],
    }
    return {name: np.concatenate([np.asarray(ids, np.uint16) for ids in lists]) for name, lists in parts.items()}


def recompute_head() -> HeadInstance:
    """The reduced shipped instance computed anew from the fetched model, in float64, before it is rounded.

    Raises:
        ModelMissingError, ModelDamagedError: the model has to be fetched; the message says how.
        ValueError: jax is in 32-bit mode.
    """
    heldout = {"docs_heldout": 2, "card": 2}
    return minilm_head(5, 2, n=64, train={"docs": 8}, heldout=heldout, components=16, dtype=np.float64)


def recompute_full_head() -> HeadInstance:
    """The full-size shipped instance computed anew from the fetched model, in float64, before it is rounded.

    Raises:
        ModelMissingError, ModelDamagedError: the model has to be fetched; the message says how.
    """
    train, heldout = (
        {name: np.stack([passage(name, start, 512) for start in starts]) for name, starts in texts.items()}
        for texts in (PROSE, PROSE_HELDOUT)
    )
    return head_instance(load_minilm(dtype=np.float64), 2, 3, train, heldout, vocabulary=load_vocabulary())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.embed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("head", "full", "texts"))
    parser.add_argument("output", type=Path, help="the .npz file to write")
    options = parser.parse_args(argv)
    try:
        print(f"{_MAKERS[options.what](options.output)} in {options.output}")
    except (ModelMissingError, ModelDamagedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _head(output: Path) -> str:
    return _saved(output, recompute_head)


def _full(output: Path) -> str:
    return _saved(output, recompute_full_head)


def _saved(output: Path, compute: Callable[[], HeadInstance]) -> str:
    jax.config.update("jax_enable_x64", True)
    instance = compute()
    save_head(output, instance)
    return f"{instance.name}: {output.stat().st_size} bytes"


def _texts(output: Path) -> str:
    from pydoc_data.topics import topics  # slow to import, and wanted here only

    if platform.python_version() != FROZEN_WITH:
        print(f"note: Python {platform.python_version()} here; the shipped ids are from Python {FROZEN_WITH}.")
    frozen = freeze(load_vocabulary(), topics, cached_file("README.md").read_text(encoding="utf-8"))
    np.savez_compressed(output, **frozen)  # pyright: ignore[reportArgumentType]
    return ", ".join(f"{name}: {len(ids)} tokens" for name, ids in frozen.items())


_MAKERS: dict[str, Callable[[Path], str]] = {"head": _head, "full": _full, "texts": _texts}

if __name__ == "__main__":
    sys.exit(main())
