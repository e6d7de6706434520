"""The one way to a model: a name, a folder, or a GGUF file. Nothing is downloaded here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from attnreg.data.cache import SMOLLM2, cached_file
from attnreg.data.models.folder import load_folder
from attnreg.data.models.gguf_file import gguf_tokenizer, load_gguf
from attnreg.data.models.parameters import Model
from attnreg.data.models.tokens import Tokenizer, folder_tokenizer
from attnreg.problems.checks import ProblemError

_SMOLLM2_FILE = next(iter(SMOLLM2.files))


class Named(NamedTuple):
    """A model that is known by name: how it and its tokenizer are read from a cache (None: the default one)."""

    what: str
    load: Callable[[Path | None, DTypeLike], Model]
    tokenizer: Callable[[Path | None], Tokenizer]


@dataclass(frozen=True)
class WordPieces:
    """The tokenizer of MiniLM, which is written here: it needs no optional package."""

    cache: Path | None = None

    def encode(self, text: str) -> np.ndarray:
        """The token ids of a text between ``[CLS]`` and ``[SEP]``, (n,) int32."""
        from attnreg.data.minilm.encoder import CLS, SEP
        from attnreg.data.minilm.texts import load_vocabulary, tokenize

        return np.asarray([CLS, *tokenize(text, load_vocabulary(self.cache)), SEP], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words of token ids (n,), lower case, one space between them."""
        return " ".join(word for word in self.strings(ids) if word not in ("[CLS]", "[SEP]")).replace(" ##", "")

    def strings(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The strings of ids (n,); pieces that continue a word start with ``##``."""
        from attnreg.data.minilm.texts import load_vocabulary

        return load_vocabulary(self.cache).strings([int(i) for i in ids])


def _minilm(cache: Path | None, dtype: DTypeLike) -> Model:
    from attnreg.data.minilm.encoder import CONFIG, load_minilm  # which is built on this package

    return Model(CONFIG, load_minilm(cache, dtype=dtype))


NAMED = {
    "minilm": Named("all-MiniLM-L6-v2, an encoder of sentences: 6 layers, 12 heads", _minilm, WordPieces),
    "smollm2": Named(
        "SmolLM2-135M-Instruct, a language model: 30 layers, 9 heads of which 3 share a key, rotary",
        lambda cache, dtype: load_gguf(cached_file(_SMOLLM2_FILE, cache, SMOLLM2), dtype=dtype),
        lambda cache: gguf_tokenizer(cached_file(_SMOLLM2_FILE, cache, SMOLLM2)),
    ),
}


def load_model(where: str | Path, *, dtype: DTypeLike = jnp.float32, cache: Path | None = None) -> Model:
    """A transformer: its numbers and its weights.

    Args:
        where: a name, "minilm" or "smollm2", whose files a command has fetched; a folder of ``config.json`` and
            ``*.safetensors``; or a ``.gguf`` file.
        dtype: float32, or float64 (the same numbers; needs ``jax_enable_x64``).
        cache: where fetched models are; None means `attnreg.data.cache.default_cache`.

    Raises:
        ProblemError: there is no such model, a file of it is missing or damaged, its architecture or an option is not
            supported, or an optional package is not installed; the message says what to do.
        ModelMissingError, ModelDamagedError: a model known by name is to be fetched; the message has the command.
    """
    if where in NAMED:
        return NAMED[str(where)].load(cache, dtype)
    path = _existing(where)
    return load_gguf(path, dtype=dtype) if path.suffix == ".gguf" else load_folder(path, dtype=dtype)


def load_tokenizer(where: str | Path, *, cache: Path | None = None) -> Tokenizer:
    """The tokenizer of a model that `load_model` knows; the arguments, and what is raised, are the same."""
    if where in NAMED:
        return NAMED[str(where)].tokenizer(cache)
    path = _existing(where)
    return gguf_tokenizer(path) if path.suffix == ".gguf" else folder_tokenizer(path)


def _existing(where: str | Path) -> Path:
    path = Path(where).expanduser()
    if not path.is_dir() and not (path.suffix == ".gguf" and path.is_file()):
        raise ProblemError(
            f"model is {str(where)!r}; it must be one of {', '.join(map(repr, NAMED))}, a folder with config.json, or "
            f"a .gguf file"
        )
    return path
