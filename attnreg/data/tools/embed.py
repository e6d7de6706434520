"""Make the files of ``attnreg/data/embedded`` anew from the fetched model.

    python -m attnreg.data.tools.embed head OUTPUT.npz
    python -m attnreg.data.tools.embed texts OUTPUT.npz

``head``, the shipped attention head: computes in float64 and keeps half precision. Another machine differs only where
an entry lies within 1e-12 of the middle between two half-precision numbers, and then by one unit in its last place.

``texts``, the frozen texts: takes the model's vocabulary and model card and, for the very same ids, the ``pydoc_data``
of Python 3.11.7. Other versions of Python word their reference differently, which is why the ids are frozen.
"""

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from attnreg.data.minilm.cache import ModelDamagedError, ModelMissingError, cached_file
from attnreg.data.minilm.embedded import save_head
from attnreg.data.minilm.instance import HeadInstance, minilm_head
from attnreg.data.minilm.texts import Vocabulary, load_vocabulary, tokenize

FROZEN_WITH = "3.11.7"
HELDOUT_EVERY = 3
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
    """The shipped instance computed anew from the fetched model, in float64, before it is rounded.

    Raises:
        ModelMissingError, ModelDamagedError: the model has to be fetched; the message says how.
        ValueError: jax is in 32-bit mode.
    """
    heldout = {"docs_heldout": 2, "card": 2}
    return minilm_head(5, 2, n=64, train={"docs": 8}, heldout=heldout, components=16, dtype=np.float64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attnreg.data.tools.embed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("head", "texts"))
    parser.add_argument("output", type=Path, help="the .npz file to write")
    options = parser.parse_args(argv)
    try:
        print(f"{(_head if options.what == 'head' else _texts)(options.output)} in {options.output}")
    except (ModelMissingError, ModelDamagedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _head(output: Path) -> str:
    jax.config.update("jax_enable_x64", True)
    instance = recompute_head()
    save_head(output, instance)
    return f"{instance.name}: {output.stat().st_size} bytes"


def _texts(output: Path) -> str:
    from pydoc_data.topics import topics  # slow to import, and wanted here only

    if platform.python_version() != FROZEN_WITH:
        print(f"note: Python {platform.python_version()} here; the shipped ids are from Python {FROZEN_WITH}.")
    frozen = freeze(load_vocabulary(), topics, cached_file("README.md").read_text(encoding="utf-8"))
    np.savez_compressed(output, **frozen)  # pyright: ignore[reportArgumentType]
    return ", ".join(f"{name}: {len(ids)} tokens" for name, ids in frozen.items())


if __name__ == "__main__":
    sys.exit(main())
