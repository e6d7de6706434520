"""Why a trained softmax layer is not a gradient step: two-parameter learners between the two, and what curvature is.

Every learner here answers `l(a_q) = (g/β) · Σ_i κ_i(β⟨a_q, a_i⟩) y_i`, the isotropic form that trained layers approach.
They differ in κ only, so the losses of their best (g, β) say which ingredient of softmax attention is worth what.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import tuning
from attnreg.icl.tokens import carried

PRECISION = "highest"


def _linear(s, _):
    return s / s.shape[-1]


def _quadratic(s, _):
    return (s + s**2 / 2) / s.shape[-1]


def _damped(s, size):
    """A gradient step whose size falls with the query's norm, as the softmax denominator makes it."""
    return s * jnp.exp(-size / 2) / s.shape[-1]


def _exponential(s, size):
    """exp with its denominator replaced by the Gaussian expectation `exp(β²‖a_q‖²/2)`."""
    return jnp.exp(s - size / 2) / s.shape[-1]


def _softmax(s, _):
    return jax.nn.softmax(s, axis=-1)


def _two_heads(s, _):
    return (jax.nn.softmax(s, axis=-1) - jax.nn.softmax(-s, axis=-1)) / 2


# name: κ(s, β²‖a_q‖²) over the context; every κ is s/n to first order, up to a constant that centred targets cancel.
KERNELS = {
    "linear": _linear,
    "linear, step falls with |a_q|": _damped,
    "linear + quadratic": _quadratic,
    "exp, mean-field denominator": _exponential,
    "softmax": _softmax,
    "softmax, two heads": _two_heads,
}


class Fit(NamedTuple):
    """A kernel learner: signed sharpness β, gain g·β (its first-order step, as `constructions.gain`), tuning loss."""

    beta: jax.Array
    gain: jax.Array
    loss: jax.Array


def kernel_logits(name, beta, gain, tokens, document, queries=None):
    """Logits `(gain/β) Σ_i κ_i(β⟨a_q, a_i⟩) y_i` of one document.

    Args:
        name: a key of `KERNELS`.
        beta: β ≠ 0; negative attends to the *least* similar rows and subtracts (concave where positive is convex).
        gain: first-order step size.
        tokens: "plain" or "simplex", as in `TokenConfig.targets`.
        document: one `Documents` without batch axis.
        queries: m×d, replaces `document.queries`.

    Returns: (m,) logits. As β → 0 all kernels tend to "linear" for centred targets (`test_metrics`).
    Cost: n m (2 d + 2) flops and at most one exp a pair.
    """
    queries = document.queries if queries is None else queries
    s = beta * jnp.matmul(queries, document.context.T, precision=PRECISION)
    size = (beta**2 * jnp.sum(queries**2, axis=-1))[:, None]
    return gain / beta * jnp.matmul(KERNELS[name](s, size), carried(tokens, document.targets), precision=PRECISION)


def fit_kernels(tokens, problem, documents, *, gain, beta=0.1, iterations=30):
    """Best (β, gain) of every kernel on tuning documents: L-BFGS in log|β| and log gain, from +β and from −β.

    Args:
        tokens: "plain" or "simplex".
        problem: "linear" or "softmax".
        documents: tuning documents.
        gain: start, usually that of the tuned gradient step.
        beta: start of |β|.
        iterations: of L-BFGS, for each kernel and sign.

    Returns: dict of `Fit`, the better sign of each. β tending to 0 means that no sharper kernel of the family beats
        the gradient step.
    Cost: 2 · 6 · iterations · about 1.5 gradients on all documents, one after the other; one compilation.
    """
    dtype = documents.context.dtype

    def branch(name):
        def loss(beta, gain):
            found = jax.vmap(lambda document: kernel_logits(name, beta, gain, tokens, document))(documents)
            return tuning.mean_loss(problem, documents, found)

        return loss

    branches = [branch(name) for name in KERNELS]

    def fit(choice):
        index, sign = choice

        def loss(theta):
            return jax.lax.switch(index, branches, sign * jnp.exp(theta[0]), jnp.exp(theta[1]))

        start = jnp.log(jnp.stack([jnp.asarray(beta, dtype), jnp.asarray(gain, dtype)]))
        theta, value = tuning.minimise(loss, start, iterations=iterations)
        return Fit(sign * jnp.exp(theta[0]), jnp.exp(theta[1]), value)

    count = len(KERNELS)
    choices = jnp.tile(jnp.arange(count), 2), jnp.repeat(jnp.asarray([1, -1], dtype), count)
    fits = jax.lax.map(fit, choices)
    best = jnp.where(fits.loss[:count] <= fits.loss[count:], 0, count) + jnp.arange(count)
    return {name: jax.tree.map(lambda leaf, i=i: leaf[best[i]], fits) for i, name in enumerate(KERNELS)}


def anatomy(answer, documents, step):
    """Where a learner's answers and sensitivities leave those of a gradient step.

    With l the learner's logits, g their gradients (m×d a document), w the step: the even part of l is
    `(l(a) + l(−a))/2` (zero for every linear function); the gap `g − w` splits exactly into the gap of the mean
    slope over the document's queries and the variation of g between queries (curvature); the variation is
    projected on w, on a_q (orthogonalised to w) and on the true weights (orthogonalised to both).

    Args:
        answer: documents → (B×m logits, B×m×d slopes).
        documents: a batch.
        step: B×d, the gradient step w.

    Returns: dict of scalars, all fractions of energy (sums of squares over documents) but the cosines:
        even_part (of the logits), curvature (share of the gap), variation_along_step / _query / _truth / _rest
        (shares of the variation, adding to one), cosine, cosine_mean_slope (one mean slope a document),
        cosine_odd_part ((g(a) + g(−a))/2, the slope of the odd part).
    Precision: the shares add to one to rounding (`test_kernels`).
    """
    logits, slopes = answer(documents)
    mirrored, mirrored_slopes = answer(documents._replace(queries=-documents.queries))
    even, w = (logits + mirrored) / 2, step[:, None, :]
    mean = jnp.mean(slopes, axis=1, keepdims=True)
    variation, gap = slopes - mean, slopes - w
    shares, rest, basis = {}, variation, []
    directions = {"step": w, "query": documents.queries, "truth": documents.weights[:, None, :]}
    for name, direction in directions.items():
        unit = jnp.broadcast_to(direction, slopes.shape)
        for other in basis:
            unit = unit - jnp.sum(unit * other, axis=-1, keepdims=True) * other
        unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
        basis.append(unit)
        part = jnp.sum(rest * unit, axis=-1, keepdims=True) * unit
        shares[f"variation_along_{name}"] = _energy(part) / _energy(variation)
        rest = rest - part
    odd = (slopes + mirrored_slopes) / 2
    return {
        "even_part": _energy(even) / _energy(logits),
        "curvature": _energy(variation) / _energy(gap),
        **shares,
        "variation_along_rest": _energy(rest) / _energy(variation),
        "cosine": _mean_cosine(slopes, w),
        "cosine_mean_slope": _mean_cosine(mean, w),
        "cosine_odd_part": _mean_cosine(odd, w),
    }


def _energy(x):
    return jnp.sum(x**2)


def _mean_cosine(x, y):
    sizes = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return jnp.mean(jnp.sum(x * y, axis=-1) / jnp.maximum(sizes, 1e-30))
