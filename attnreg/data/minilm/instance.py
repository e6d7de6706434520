"""A real attention head as an attention regression: activations in, the head's own map as target.

The targets are not stored: for document i they are ``B_i = softmax(Q_i K_iᵀ)``, 64 n numbers in place of n².
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from attnreg.data.minilm.encoder import Encoder, encode, load_minilm
from attnreg.data.minilm.heads import head_of, true_factors, true_y
from attnreg.data.minilm.texts import Vocabulary, load_vocabulary, windows
from attnreg.problems.checks import check_integer
from attnreg.problems.reprs import compact_repr

Labels = tuple[tuple[str, ...], ...]


@compact_repr
@dataclass(frozen=True)
class HeadInstance:
    """One head on k training documents and k' held-out documents of n tokens each.

    The regression asks for X (d, d), shared by all documents, with ``softmax(A_i X A_iᵀ) = softmax(Q_i
    K_iᵀ)``; the one-layer problem adds the value vectors: ``softmax(A_i X A_iᵀ) A_i Y = softmax(Q_i K_iᵀ)
    V_i``.

    Attributes:
        name: what this is, for titles.
        layer, head: where in the model, from 0.
        A: (k, n, d) the head's inputs, or their principal components with a last column of ones.
        Q, K: (k, n, 32) the factors of the target's logits, scale and biases folded in.
        V: (k, n, 32) the head's value vectors.
        A_heldout, Q_heldout, K_heldout, V_heldout: the same of the held-out documents, (k', n, ·).
        W_O: (32, 384) output weights: the head adds ``softmax(Q_i K_iᵀ) V_i W_O`` to the layer's output.
        true_factors: at full size the (384, 32) factors of the true X = Q Kᵀ, else ``None``: no X is exact
            then.
        true_Y: at full size the true Y (384, 32), else ``None``.
        ids, ids_heldout: (k, n) and (k', n) int32 token ids.
        tokens, tokens_heldout: their strings, the axis labels of an attention map.
        sources, sources_heldout: the name of the text each document is from.

    All arrays are NumPy's, floating-point ones of one dtype.
    """

    name: str
    layer: int
    head: int
    A: np.ndarray
    Q: np.ndarray
    K: np.ndarray
    V: np.ndarray
    A_heldout: np.ndarray
    Q_heldout: np.ndarray
    K_heldout: np.ndarray
    V_heldout: np.ndarray
    W_O: np.ndarray
    true_factors: tuple[np.ndarray, np.ndarray] | None
    true_Y: np.ndarray | None
    ids: np.ndarray
    ids_heldout: np.ndarray
    tokens: Labels
    tokens_heldout: Labels
    sources: tuple[str, ...]
    sources_heldout: tuple[str, ...]


def attention_map(Q: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The targets ``B = softmax(Q Kᵀ)``, row by row: (…, n, n) from Q, K (…, n, 32).

    Example:
        >>> attention_map(np.zeros((2, 3)), np.ones((2, 3))).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    logits = Q @ np.swapaxes(K, -1, -2)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def layer_inputs(encoder: Encoder, ids: np.ndarray, layer: int) -> np.ndarray:
    """The hidden states (k, n, 384) that a layer reads, for documents `ids` (k, n), in the encoder's dtype.

    Cost: that of `attnreg.data.minilm.encoder.encode` per document; the memory of one document at a time.
    """
    return np.asarray(_layer_inputs(encoder, jnp.asarray(ids), layer))


@partial(jax.jit, static_argnums=2)
def _layer_inputs(encoder: Encoder, ids: Array, layer: int) -> Array:
    return jax.lax.map(lambda document: encode(encoder, document, layers=layer).hidden[layer], ids)


def principal_components(H: np.ndarray, H_heldout: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows H and H_heldout (…, p) in the first d principal components of H, with a column of ones: (…, d + 1).

    The basis and the mean are those of H alone: held-out rows have no say. Each component points where its
    largest coefficient is positive, so the result does not depend on the sign a linear-algebra library
    happens to return.

    Cost: rows · p² flops and one symmetric p × p eigendecomposition.
    """
    rows = H.reshape(-1, H.shape[-1]).astype(np.float64)
    mean = rows.mean(axis=0)
    values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    basis = vectors[:, np.argsort(values)[::-1][:d]]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(d)])

    def reduce(h: np.ndarray) -> np.ndarray:
        return np.concatenate([(h - mean) @ basis, np.ones_like(h[..., :1], dtype=np.float64)], axis=-1)

    return reduce(H), reduce(H_heldout)


def head_instance(
    encoder: Encoder,
    layer: int,
    head: int,
    train: Mapping[str, np.ndarray],
    heldout: Mapping[str, np.ndarray],
    *,
    components: int | None = None,
    dtype: DTypeLike | None = None,
    vocabulary: Vocabulary | None = None,
) -> HeadInstance:
    """One head of the encoder on documents given as token ids.

    Formula: with H the layer's input, ``Q = H (W_Q + u b_Qᵀ)/√32``, ``K = H (W_K + u b_Kᵀ)``, ``V = H (W_V +
    u b_Vᵀ)``, and ``A = H`` or ``[(H − mean) basis, 1]``.

    Args:
        encoder: from `attnreg.data.minilm.encoder.load_minilm`.
        layer, head: 0..5 and 0..11.
        train: the name of each text and its (count, n) token ids, of one n; see
            `attnreg.data.minilm.texts.windows`.
        heldout: the same, (count, n), for documents that are kept for judging.
        components: ``None`` for the full 384 columns, where the problem has an exact solution; else 1..383
            (and fewer than training tokens), the number of principal components of the training documents, to
            which a column of ones is added.
        dtype: of the arrays returned; ``None`` means the encoder's.
        vocabulary: the strings of the tokens; ``None`` means the fetched model's.

    Precision: targets are computed in float64 from H, whatever its dtype: at full size in float64 the true X
        is exact to 1e-14 relative even when the forward pass was float32 (tests/data/test_instance.py).

    Raises:
        ValueError: no such layer or head, documents of different lengths, or a bad number of components.
    """
    ids, sources = _documents(train, "train")
    ids_heldout, sources_heldout = _documents(heldout, "heldout")
    if ids.shape[1] != ids_heldout.shape[1]:
        raise ValueError(
            f"train has documents of {ids.shape[1]} tokens, heldout of {ids_heldout.shape[1]}: cut all alike."
        )
    weights = head_of(encoder, layer, head)
    # All rows satisfy hᵀu = 1 and the mean is taken off, hence one dimension less than columns or rows.
    most = min(weights.w_q.shape[0], ids.size) - 1
    if components is not None:
        check_integer("components", components, at_least=1, at_most=most)
    dtype = np.dtype(encoder.words.dtype if dtype is None else dtype)
    factors = tuple(np.asarray(part, np.float64) for part in (*true_factors(weights), true_y(weights)))
    H, H_heldout = (layer_inputs(encoder, part, layer).astype(np.float64) for part in (ids, ids_heldout))
    A, A_heldout = (H, H_heldout) if components is None else principal_components(H, H_heldout, components)
    (Q, K, V), (Q_heldout, K_heldout, V_heldout) = ([h @ part for part in factors] for h in (H, H_heldout))
    f_q, f_k, f_v = (part.astype(dtype) for part in factors)
    vocabulary = vocabulary or load_vocabulary()
    size = "all columns" if components is None else f"{components} components + ones"
    return HeadInstance(
        name=f"MiniLM-L6 layer {layer} head {head}, {size}, {len(ids)} × {ids.shape[1]} tokens",
        layer=layer,
        head=head,
        A=A.astype(dtype),
        Q=Q.astype(dtype),
        K=K.astype(dtype),
        V=V.astype(dtype),
        A_heldout=A_heldout.astype(dtype),
        Q_heldout=Q_heldout.astype(dtype),
        K_heldout=K_heldout.astype(dtype),
        V_heldout=V_heldout.astype(dtype),
        W_O=np.asarray(weights.w_o, dtype),
        true_factors=(f_q, f_k) if components is None else None,
        true_Y=f_v if components is None else None,
        ids=ids,
        ids_heldout=ids_heldout,
        tokens=tuple(vocabulary.strings(row) for row in ids),
        tokens_heldout=tuple(vocabulary.strings(row) for row in ids_heldout),
        sources=sources,
        sources_heldout=sources_heldout,
    )


def minilm_head(
    layer: int,
    head: int,
    *,
    n: int,
    train: Mapping[str, int],
    heldout: Mapping[str, int],
    components: int | None = None,
    dtype: DTypeLike = np.float32,
    cache: Path | None = None,
) -> HeadInstance:
    """`head_instance` of the fetched model on windows of the frozen texts.

    Args:
        layer, head: 0..5 and 0..11.
        n: tokens of a window, at most 512.
        train, heldout: how many windows of which text, for instance ``{"docs": 8}`` and ``{"docs_heldout": 4,
            "card": 2}``.
        components: ``None`` for all 384 columns, else principal components, to which a column of ones is
            added.
        dtype: of the forward pass and of the arrays; float64 needs ``jax_enable_x64``.
        cache: where the model is; ``None`` means the default.

    Raises:
        ModelMissingError, ModelDamagedError: the model has to be fetched; the message says how.
        ValueError: as `head_instance` and `attnreg.data.minilm.texts.windows`.
    """
    chosen, unseen = ({name: windows(name, n, count) for name, count in part.items()} for part in (train, heldout))
    encoder = load_minilm(cache, dtype=dtype)
    return head_instance(encoder, layer, head, chosen, unseen, components=components, vocabulary=load_vocabulary(cache))


def _documents(texts: Mapping[str, np.ndarray], argument: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """All documents in one (k, n) array, and the name of the text of each."""
    shapes = {name: np.shape(ids) for name, ids in texts.items()}
    if (
        not shapes
        or any(len(shape) != 2 for shape in shapes.values())
        or len({shape[1] for shape in shapes.values()}) != 1
    ):
        raise ValueError(
            f"{argument} has token ids of shapes {shapes}; each text must be (count, n), with one n for all."
        )
    sources = tuple(name for name, (count, _) in shapes.items() for _ in range(count))
    return np.concatenate([np.asarray(ids, np.int32) for ids in texts.values()]), sources
