"""How far an in-context learner is from an algorithm: losses, predictions, sensitivities, weights."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from attnreg.icl.models import Attention
from attnreg.icl.tasks import TaskConfig, targets_of
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import ProblemError


def document_loss(task: TaskConfig, logits: jax.Array, answers: jax.Array) -> jax.Array:
    """Loss of one document, a scalar, from the logits (m,) of its queries and their answers (m,).

    Linear: half mean square `½ mean_q (l_q − b_q)²` (as in arXiv 2212.07677). Softmax: `m ‖softmax(l) − b‖²`, the
    objective of 2304.13276 times the number of query rows, so that it stays of order one for every m.
    """
    error = targets_of(task, logits) - answers
    if task.kind == "linear":
        return jnp.mean(error**2) / 2
    return logits.shape[-1] * jnp.sum(error**2)


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """⟨x, y⟩/(‖x‖‖y‖) (…) of vectors (…, d) along the last axis; 0 where a vector vanishes.

    >>> import jax.numpy as jnp
    >>> cosine(jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    sizes = jnp.sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))
    safe = jnp.where(sizes > 0, sizes, jnp.ones_like(sizes))
    return jnp.where(sizes > 0, jnp.sum(x * y, axis=-1) / safe, jnp.zeros_like(sizes))


def compare(
    task: TaskConfig, logits: jax.Array, slopes: jax.Array, reference_logits: jax.Array, reference_slopes: jax.Array
) -> dict[str, jax.Array]:
    """Closeness of two learners on a batch of documents, a dict of scalars.

    Args:
        task: `TaskConfig` of the documents.
        logits: (B, m) of the first learner.
        slopes: (B, m, d), ∂logit_q/∂a_q.
        reference_logits: (B, m) of the second.
        reference_slopes: (B, m, d).

    Returns: dict of scalars: `prediction_difference` mean over documents of ‖p − p'‖₂ (softmax) or mean |l − l'|
        (linear), `sensitivity_difference` mean ‖g − g'‖₂, `cosine` mean cos(g, g').
    Source: the three measures of arXiv 2212.07677.
    """
    difference = targets_of(task, logits) - targets_of(task, reference_logits)
    prediction = (
        jnp.mean(jnp.abs(difference)) if task.kind == "linear" else jnp.mean(jnp.linalg.norm(difference, axis=-1))
    )
    return {
        "prediction_difference": prediction,
        "sensitivity_difference": jnp.mean(jnp.linalg.norm(slopes - reference_slopes, axis=-1)),
        "cosine": jnp.mean(cosine(slopes, reference_slopes)),
    }


def _active(attention: Attention) -> Attention:
    """The part of a one-layer model that its answer depends on: queries have target channel 0 and are read there."""
    KQ = attention.KQ.at[..., -1, :].set(0)
    PV = jnp.zeros_like(attention.PV).at[..., -1, :].set(attention.PV[..., -1, :])
    return Attention(KQ, PV)


def weight_distance(attention: Attention, construction: Attention) -> jax.Array:
    """Relative distance (scalar) of merged weights from a construction, blind to what the function does not depend on.

    For each layer `‖Σ_h M_h ⊗ PV_h − Σ_h M°_h ⊗ PV°_h‖_F / ‖Σ_h M°_h ⊗ PV°_h‖_F`, mean over layers. The tensor is all
    that a linear layer depends on (no head order, no scale to trade between M and PV) and the first-order part
    of a softmax layer. A one-layer model is compared on the entries its answer reads. Computed from Gram matrices.

    Args:
        attention: `Attention` of the model (`models.merge`), leaves (L, H, D, D).
        construction: `Attention` with the same number of layers, any number of heads.

    Returns: scalar.
    Precision: eps · √(‖T‖²+‖T°‖²)/‖T°‖; near 0 it is √eps, since squared norms are subtracted.
    Cost: H² D² flops a layer.
    """
    model, target = (a if a.KQ.shape[0] > 1 else _active(a) for a in (attention, construction))

    def inner(x, y):
        grams = [tt.einsum("lhij,lgij->lhg", a, b) for a, b in zip(x, y, strict=True)]
        return jnp.sum(grams[0] * grams[1], axis=(1, 2))

    own = inner(target, target)
    gap = inner(model, model) - 2 * inner(model, target) + own
    return jnp.mean(jnp.sqrt(jnp.maximum(gap, 0) / own))


def interpolate(attention: Attention, construction: Attention) -> dict[str, jax.Array]:
    """Weights half way between a one-head model and a construction, in one gauge.

    The size of the model's M, `c = sign(tr M_x) ‖M_x‖_F/√d` (M_x the (d, d) feature block; unlike the trace it is not
    zero by accident), fixes the gauge: the construction at logit scale c, `(c M°, PV°/c)`, is averaged with the model.

    Args:
        attention: `Attention` with one head, leaves (L, 1, D, D).
        construction: `Attention` with one head and M° = diag(I, 0), e.g. of `constructions.linear_descent`.

    Returns: weights {"KQ", "PV"} (L, 1, D, D) for a merged model.
    Raises: ProblemError for several heads (their order and split are not determined).
    """
    if attention.KQ.shape[1] != 1:
        raise ProblemError(f"attention has {attention.KQ.shape[1]} heads; interpolate needs one head")
    block = attention.KQ[..., :-1, :-1]
    trace = jnp.trace(block, axis1=-2, axis2=-1)[..., None, None]
    size = jnp.sqrt(jnp.sum(block**2, axis=(-2, -1), keepdims=True) / block.shape[-1])
    scale = jnp.where(trace < 0, -size, size)
    return {
        "KQ": 0.5 * attention.KQ + 0.5 * scale * construction.KQ,
        "PV": 0.5 * attention.PV + 0.5 * construction.PV / scale,
    }


def plateau_end(steps: Sequence[int], losses: Any, zero: float, target: float) -> int | None:
    """First of `steps` at which a run has closed half of the gap from the zero predictor to `target`; None if never.

    >>> plateau_end([0, 10, 20], [1.0, 0.9, 0.4], 1.0, 0.2)
    20
    """
    for step, loss in zip(steps, losses, strict=True):
        if loss <= (zero + target) / 2:
            return int(step)
    return None
