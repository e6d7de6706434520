"""Why a trained softmax layer is not a gradient step: two-parameter learners between the two, and what curvature is.

Every learner here answers `l(a_q) = (g/β) · Σ_i κ_i(β⟨a_q, a_i⟩) y_i`, the isotropic form that trained layers approach.
They differ in κ only, so the losses of their best (g, β) say which ingredient of softmax attention is worth what.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attnreg.icl import tuning
from attnreg.icl.models import ModelConfig
from attnreg.icl.tasks import Documents, TaskConfig
from attnreg.icl.tokens import carried
from attnreg.lift import tensor_trick as tt
from attnreg.problems.checks import check_choice


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
KERNELS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "linear": _linear,
    "linear, step falls with |a_q|": _damped,
    "linear + quadratic": _quadratic,
    "exp, mean-field denominator": _exponential,
    "softmax": _softmax,
    "softmax, two heads": _two_heads,
}


class Fit(NamedTuple):
    """A kernel learner: beta, gain, loss are scalars.

    beta is the signed sharpness, gain is g·β (its first-order step, as `constructions.gain`), loss that of tuning.
    """

    beta: jax.Array
    gain: jax.Array
    loss: jax.Array


# Of `fit_kernels`: where |β| starts, and the iterations of L-BFGS for each kernel and sign.
_START, _ITERATIONS = 0.1, 30


def kernel_logits(
    name: str, beta: Any, gain: Any, model: ModelConfig, document: Documents, queries: jax.Array | None = None
) -> jax.Array:
    """Logits `(gain/β) Σ_i κ_i(β⟨a_q, a_i⟩) y_i` of one document.

    Args:
        name: a key of `KERNELS`.
        beta: scalar β ≠ 0; negative attends to the *least* similar tokens and subtracts (concave where positive is
            convex).
        gain: scalar, the first-order step size.
        model: says what a token carries as y (`TokenConfig.targets`).
        document: one `Documents` without batch axis.
        queries: (m, d), replaces `document.queries`.

    Returns: (m,) logits. As β → 0 all kernels tend to "linear" for centred targets (`test_kernels`, as the formulas
        against NumPy).
    Cost: n m (2 d + 2) flops and at most one exp a pair.
    Raises: ProblemError for an unknown name.
    """
    check_choice("kernel", name, KERNELS)
    queries = document.queries if queries is None else queries
    s = beta * tt.matmul(queries, document.context.T)
    size = (beta**2 * jnp.sum(queries**2, axis=-1))[:, None]
    return gain / beta * tt.matmul(KERNELS[name](s, size), carried(model.tokens, document.targets))


def fit_kernels(task: TaskConfig, model: ModelConfig, documents: Documents, *, gain: Any) -> dict[str, Fit]:
    """Best (β, gain) of every kernel on tuning documents: L-BFGS in log|β| and log gain, from +0.1 and from −0.1.

    Args:
        task: `TaskConfig` of the documents.
        model: says what a token carries as y (`TokenConfig.targets`).
        documents: `Documents` of B to tune on.
        gain: scalar start, usually that of the tuned gradient step.

    Returns: dict of `Fit`, the better sign of each. β tending to 0 means that no sharper kernel of the family beats
        the gradient step.
    Precision: a local optimum; `test_kernels` finds a planted kernel to 1e-4.
    Cost: 2 · 6 · 30 · about 1.5 gradients on all documents, one after the other; one compilation.
    """
    dtype = documents.context.dtype

    def branch(name):
        def loss(beta, gain):
            found = jax.vmap(lambda document: kernel_logits(name, beta, gain, model, document))(documents)
            return tuning.mean_loss(task, documents, found)

        return loss

    branches = [branch(name) for name in KERNELS]

    def fit(choice):
        index, sign = choice

        def loss(theta):
            return jax.lax.switch(index, branches, sign * jnp.exp(theta[0]), jnp.exp(theta[1]))

        start = jnp.log(jnp.stack([jnp.asarray(_START, dtype), jnp.asarray(gain, dtype)]))
        theta, value = tuning.minimise(loss, start, iterations=_ITERATIONS)
        return Fit(sign * jnp.exp(theta[0]), jnp.exp(theta[1]), value)

    count = len(KERNELS)
    choices = jnp.tile(jnp.arange(count), 2), jnp.repeat(jnp.asarray([1, -1], dtype), count)
    fits = jax.lax.map(fit, choices)
    best = jnp.where(fits.loss[:count] <= fits.loss[count:], 0, count) + jnp.arange(count)
    return {name: jax.tree.map(lambda leaf, i=i: leaf[best[i]], fits) for i, name in enumerate(KERNELS)}


def anatomy(
    answer: Callable[[Documents], tuple[jax.Array, jax.Array]], documents: Documents, step: jax.Array
) -> dict[str, jax.Array]:
    """Where a learner's answers and sensitivities leave those of a gradient step, a dict of scalars.

    With l the learner's logits, g their gradients ((m, d) a document), w the step: the even part of l is
    `(l(a) + l(−a))/2` (zero for every linear function); the gap `g − w` splits exactly into the gap of the mean
    slope over the document's queries and the variation of g between queries (curvature); the variation is
    projected on w, on a_q (orthogonalised to w) and on the true weights (orthogonalised to both).

    Args:
        answer: documents → (logits (B, m), slopes (B, m, d)), for example `models.answer`.
        documents: `Documents` of B.
        step: (B, d), the gradient step w.

    Returns: dict of scalars, all fractions of energy (sums of squares over documents) but the cosines:
        even_part (of the logits), curvature (share of the gap), variation_along_step / _query / _truth / _rest
        (shares of the variation, adding to one), cosine, cosine_mean_slope (one mean slope a document),
        cosine_odd_part ((g(a) + g(−a))/2, the slope of the odd part).
    Precision: the shares add to one to rounding (`test_kernels`).
    Cost: two evaluations of `answer` and about 30 B m d flops.
    """
    logits, slopes = answer(documents)
    mirrored, mirrored_slopes = answer(documents._replace(queries=-documents.queries))
    even, odd, w = (logits + mirrored) / 2, (slopes + mirrored_slopes) / 2, step[:, None, :]
    mean = jnp.mean(slopes, axis=1, keepdims=True)
    variation = slopes - mean
    return {
        "even_part": _energy(even) / _energy(logits),
        "curvature": _energy(variation) / _energy(slopes - w),
        **_shares(variation, {"step": w, "query": documents.queries, "truth": documents.weights[:, None, :]}),
        "cosine": _mean_cosine(slopes, w),
        "cosine_mean_slope": _mean_cosine(mean, w),
        "cosine_odd_part": _mean_cosine(odd, w),
    }


def _shares(variation: jax.Array, directions: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Shares of the energy of `variation` along directions orthogonalised one after the other, and the rest."""
    shares, rest, basis = {}, variation, []
    for name, direction in directions.items():
        unit = jnp.broadcast_to(direction, variation.shape)
        for other in basis:
            unit = unit - jnp.sum(unit * other, axis=-1, keepdims=True) * other
        unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
        basis.append(unit)
        part = jnp.sum(rest * unit, axis=-1, keepdims=True) * unit
        shares[f"variation_along_{name}"] = _energy(part) / _energy(variation)
        rest = rest - part
    return shares | {"variation_along_rest": _energy(rest) / _energy(variation)}


def _energy(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2)


def _mean_cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    sizes = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return jnp.mean(jnp.sum(x * y, axis=-1) / jnp.maximum(sizes, 1e-30))
