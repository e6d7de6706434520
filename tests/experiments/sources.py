"""Sources of the tests: a folder with a tiny random Llama and its tokenizer, a text, and a file of arrays."""

import numpy as np
import tokenizers

from tests.data.models import tiny

LETTERS = "abcdefghijklmnopqrstuv "  # as many as the tiny models know words


def llama_folder(path):
    """A Llama with rotary positions whose 4 query heads, of width 6, share 2 key heads; its tokens are letters."""
    tiny.write(path, *tiny.llama())
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(LETTERS)}, merges=[]))
    backend.save(str(path / "tokenizer.json"))
    return path


def text_file(path, letters=1200):
    path.write_text("".join(np.random.default_rng(5).choice(list(LETTERS), letters)), encoding="utf-8")
    return path


def softmax(logits, causal):
    logits = np.where(np.tri(*logits.shape[-2:], dtype=bool), logits, -np.inf) if causal else logits
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def head(documents=12, n=9, d=4, r=2, causal=True):
    """Documents of a causal head with float32 arrays A, B, maps, Q and K."""
    rng = np.random.default_rng(6)
    A = rng.normal(size=(documents, n, d))
    Q, K = (A @ rng.normal(size=(d, r)) for _ in range(2))
    maps = softmax(Q @ K.swapaxes(1, 2), causal)
    arrays = dict(A=A, B=maps @ A @ rng.normal(size=(d, 3)), maps=maps, Q=Q, K=K)
    return {name: value.astype(np.float32) for name, value in arrays.items()}
