"""How far an in-context learner is from an algorithm: losses, predictions, sensitivities, weights; bands over seeds."""

import jax.numpy as jnp
import numpy as np

from attnreg.icl.tasks import targets_of


def document_loss(problem, logits, answers):
    """Loss of one document from the (m,) logits of its queries.

    Linear: half mean square `½ mean_q (l_q − b_q)²` (as in arXiv 2212.07677). Softmax: `m ‖softmax(l) − b‖²`, the
    objective of 2304.13276 times the number of query rows, so that it stays of order one for every m.
    """
    error = targets_of(problem, logits) - answers
    if problem == "linear":
        return jnp.mean(error**2) / 2
    return logits.shape[-1] * jnp.sum(error**2)


def cosine(x, y):
    """⟨x, y⟩/(‖x‖‖y‖) along the last axis; 0 where a vector vanishes.

    >>> import jax.numpy as jnp
    >>> cosine(jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[2.0, 0.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    sizes = jnp.sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))
    safe = jnp.where(sizes > 0, sizes, jnp.ones_like(sizes))
    return jnp.where(sizes > 0, jnp.sum(x * y, axis=-1) / safe, jnp.zeros_like(sizes))


def compare(problem, logits, slopes, reference_logits, reference_slopes):
    """Closeness of two learners on a batch of documents.

    Args:
        problem: "linear" or "softmax".
        logits: B×m of the first learner.
        slopes: B×m×d, ∂logit_q/∂a_q.
        reference_logits: B×m of the second.
        reference_slopes: B×m×d.

    Returns: dict of scalars: `prediction_difference` mean over documents of ‖p − p'‖₂ (softmax) or mean |l − l'|
        (linear), `sensitivity_difference` mean ‖g − g'‖₂, `cosine` mean cos(g, g').
    Source: the three measures of arXiv 2212.07677.
    """
    difference = targets_of(problem, logits) - targets_of(problem, reference_logits)
    prediction = (
        jnp.mean(jnp.abs(difference)) if problem == "linear" else jnp.mean(jnp.linalg.norm(difference, axis=-1))
    )
    return {
        "prediction_difference": prediction,
        "sensitivity_difference": jnp.mean(jnp.linalg.norm(slopes - reference_slopes, axis=-1)),
        "cosine": jnp.mean(cosine(slopes, reference_slopes)),
    }


def _active(attention, dimension):
    """The part of a one-layer model that its answer depends on: queries have target channel 0 and are read there."""
    y = dimension
    KQ = attention.KQ.at[..., y, :].set(0)
    PV = jnp.zeros_like(attention.PV).at[..., y, :].set(attention.PV[..., y, :])
    return KQ, PV


def weight_distance(attention, construction, *, dimension):
    """Relative distance of merged weights from a construction, blind to what the function does not depend on.

    For each layer `‖Σ_h M_h ⊗ PV_h − Σ_h M°_h ⊗ PV°_h‖_F / ‖Σ_h M°_h ⊗ PV°_h‖_F`, mean over layers. The tensor is all
    that a linear layer depends on (no head order, no scale to trade between M and PV) and the first-order part
    of a softmax layer. A one-layer model is compared on the entries its answer reads. Computed from Gram matrices.

    Args:
        attention: `Attention` of the model (`models.merge`).
        construction: `Attention` with the same number of layers, any number of heads.
        dimension: d.

    Returns: scalar.
    Precision: eps · √(‖T‖²+‖T°‖²)/‖T°‖ near 0 it is √eps: squared norms are subtracted.
    Cost: H² D² flops a layer.
    """
    pairs = [(a.KQ, a.PV) for a in (attention, construction)]
    if attention.KQ.shape[0] == 1:
        pairs = [_active(a, dimension) for a in (attention, construction)]

    def inner(x, y):
        grams = [jnp.einsum("lhij,lgij->lhg", a, b, precision="highest") for a, b in zip(x, y, strict=True)]
        return jnp.sum(grams[0] * grams[1], axis=(1, 2))

    model, target = pairs
    own = inner(target, target)
    gap = inner(model, model) - 2 * inner(model, target) + own
    return jnp.mean(jnp.sqrt(jnp.maximum(gap, 0) / own))


def interpolate(attention, construction, *, dimension, share=0.5):
    """Weights between a one-head model and a construction, in one gauge.

    The size of the model's M, `c = sign(tr M_x) ‖M_x‖_F/√d` (M_x the d×d feature block; unlike the trace it is not zero
    by accident), fixes the gauge: the construction at logit scale c, `(c M°, PV°/c)`, is averaged with the model.

    Args:
        attention: `Attention` with one head.
        construction: `Attention` with one head and M° = diag(I, 0), e.g. of `constructions.linear_descent`.
        dimension: d.
        share: weight of the model.

    Returns: weights {"KQ", "PV"} for a merged model.
    Raises: ValueError for several heads (their order and split are not determined).
    """
    if attention.KQ.shape[1] != 1:
        raise ValueError(f"interpolate needs one head, the model has {attention.KQ.shape[1]}")
    block = attention.KQ[..., :dimension, :dimension]
    trace = jnp.trace(block, axis1=-2, axis2=-1)[..., None, None]
    size = jnp.sqrt(jnp.sum(block**2, axis=(-2, -1), keepdims=True) / dimension)
    scale = jnp.where(trace < 0, -size, size)
    return {
        "KQ": share * attention.KQ + (1 - share) * scale * construction.KQ,
        "PV": share * attention.PV + (1 - share) * construction.PV / scale,
    }


def plateau_end(steps, losses, zero, target):
    """First of `steps` at which a run has closed half of the gap from the zero predictor to `target`; None if never.

    >>> plateau_end([0, 10, 20], [1.0, 0.9, 0.4], 1.0, 0.2)
    20
    """
    for step, loss in zip(steps, losses, strict=True):
        if loss <= (zero + target) / 2:
            return int(step)
    return None


def bootstrap_band(curves, *, level=0.9, resamples=1000, seed=0):
    """Mean over seeds and its bootstrap percentile band.

    Args:
        curves: R×T, one row per seed; rows with a non-finite value are left out of their columns.
        level: coverage.
        resamples: bootstrap resamples of the seeds.
        seed: of the resampling.

    Returns: (mean, low, high), each (T,), NumPy.
    Precision: the band of the *mean*; with one seed it has zero width and says nothing.

    >>> bootstrap_band(np.array([[1.0], [3.0]]))[0].tolist()
    [2.0]
    """
    curves = np.asarray(curves, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(curves), (resamples, len(curves)))
    finite = np.isfinite(curves)
    sums = np.where(finite, curves, 0.0)[picks].sum(axis=1)
    counts = finite[picks].sum(axis=1)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    total = finite.sum(axis=0)
    mean = np.divide(
        np.where(finite, curves, 0.0).sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0
    )
    low = np.full(mean.shape, np.nan)
    high = low.copy()
    known = np.isfinite(mean)
    if known.any():
        edges = [50 * (1 - level), 50 * (1 + level)]
        low[known], high[known] = np.nanpercentile(means[:, known], edges, axis=0)
    return mean, low, high
