"""What the reader of a page has beside the page: files of their own, as small stand-ins."""

from pathlib import Path

import numpy as np
import tokenizers

from tests.data.models import tiny


def activations(folder: Path) -> None:
    """`activations.npz`: what a layer reads and writes. Here one random head of width 2 over 12 texts."""
    rng = np.random.default_rng(0)
    A, X, V = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 32, 6), (6, 2), (6, 3)))
    S = A @ X @ X.T @ A.swapaxes(1, 2) / 2
    maps = np.exp(S - S.max(axis=-1, keepdims=True))
    np.savez(folder / "activations.npz", A=A, B=maps / maps.sum(axis=-1, keepdims=True) @ (A @ V))


def model(folder: Path, family: str = "gpt2") -> None:
    """`my-model`, a random transformer whose tokens are letters, and `my-text.txt`."""
    tiny.write(folder / "my-model", *getattr(tiny, family)())
    letters = "abcdefghijklmnopqrstuvw"
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.save(str(folder / "my-model" / "tokenizer.json"))
    text = np.random.default_rng(5).choice(list(letters), 20 * tiny.LONGEST)
    (folder / "my-text.txt").write_text("".join(text))


def finished_run(folder: Path) -> None:
    """The arrays of a run of configs/quickstart.py."""
    run = folder / "runs" / "quickstart-1a2b3c4d"
    run.mkdir(parents=True)
    np.savez(run / "solution.npz", Q=np.ones((4, 2)), K=np.ones((4, 2)))


GIVEN = {
    "docs/guides/recover.md": activations,
    "docs/guides/models.md": model,
    "docs/guides/compress.md": model,
    "docs/guides/runs.md": finished_run,
}
