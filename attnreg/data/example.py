"""A small layer to try a fit on: what a real head reads and writes, as two arrays of NumPy."""

from typing import NamedTuple

import numpy as np

from attnreg.data.layers import layer_outputs
from attnreg.data.minilm.embedded import load_full_head
from attnreg.problems.checks import check_integer
from attnreg.problems.layer import LayerWeights
from attnreg.problems.reprs import compact_repr

TEXTS, TOKENS, WIDTH = 24, 128, 64


@compact_repr
class ExampleLayer(NamedTuple):
    """One head: what it reads, what it writes, and the weights that turn the one into the other.

    Attributes:
        A: (24, 128, d) inputs, float32; the last 8 texts are cut from other documents than the first 16.
        B: (24, 128, 32) outputs, float32.
        weights: `LayerWeights` of one head, Q and K (1, d, 32), V (1, d, 32), no O, float32: those of the answer.
    """

    A: np.ndarray
    B: np.ndarray
    weights: LayerWeights


def example_layer(*, width: int = WIDTH) -> ExampleLayer:
    """Inputs (24, 128, width), outputs (24, 128, 32) and weights of a head of MiniLM; needs no network and no model.

    The head is that of `load_full_head`, layer 2 head 3. Its inputs are cut to the principal components of the first 16
    texts, 64 of 384, which makes a fit short. B is what the head writes for these, so its weights are an exact answer.

    Args:
        width: d, how many components the inputs keep, from 1 to 384.

    Precision: computed in float64 and rounded to float32.
    Cost: one symmetric eigendecomposition of size 384 and one forward pass, on the host.

    Example:
        >>> A, B, weights = example_layer()
        >>> A.shape, B.shape, weights.Q.shape
        ((24, 128, 64), (24, 128, 32), (1, 64, 32))
    """
    head = load_full_head(dtype=np.float64)
    check_integer("width", width, at_least=1, at_most=head.A.shape[-1])
    assert head.true_factors is not None
    assert head.true_Y is not None
    rows = head.A.reshape(-1, head.A.shape[-1])
    components = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :width]
    A = (np.concatenate([head.A, head.A_heldout]) @ components).reshape(TEXTS, TOKENS, width).astype(np.float32)
    projected = ((components.T @ W)[None].astype(np.float32) for W in (*head.true_factors, head.true_Y))
    weights = LayerWeights(*projected)  # type: ignore[arg-type]
    return ExampleLayer(A, layer_outputs(weights, A).astype(np.float32), weights)
