"""The layer near X = 0: a small problem whose solution is a start for the full one.

A row of the output depends on its query a through `q = Xᵀa` only: `B_j = Yᵀ g(Xᵀa_j)`, where g, the attention of the
known keys and values, is known. Expand both sides at 0 (docs/theory/one_layer.md):

    0th order   Yᵀ m                 = G0,     m = mean of A3
    1st order   X C Y                = G1,     C = cross-covariance of A2 and A3
    2nd order   S(Xᵀ·, Xᵀ·, Y ·)     = G2,     S = third cumulant of A2, A2, A3

The right-hand sides are the jet of a ↦ B, which a Gaussian process estimates from (A1, B); the left-hand sides cost
O(d⁴) and no n×m pass. The jet problem has the minima of the full problem, blurred, at a small fraction of the price:
many starts are tried on it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnreg.lift import tensor_trick as tt
from attnreg.lift.triangular import cholesky_solve
from attnreg.objectives.base import Objective, compiled
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.problems.reprs import compact_repr


@compact_repr
class Moments(NamedTuple):
    """m (d3,), C (d2, d3), S (d2, d2, d3) of one document's keys and values."""

    m: jax.Array
    C: jax.Array
    S: jax.Array


@compact_repr
class Jet(NamedTuple):
    """Value (c,), first (d1, c) and second derivative (d1, d1, c) at a = 0 of the map from queries to outputs."""

    G0: jax.Array
    G1: jax.Array
    G2: jax.Array


def moments(A2: jax.Array, A3: jax.Array) -> Moments:
    """Moments of A2 (m, d2), A3 (m, d3): the Taylor coefficients of q ↦ softmax(A2 q)ᵀ A3 at 0.

    Cost: m·d2²·d3 multiplications.

    >>> import jax.numpy as jnp
    >>> moments(jnp.array([[1.0], [-1.0]]), jnp.array([[1.0], [0.0]])).C
    Array([[0.5]], dtype=float64)
    """
    mean = jnp.mean(A3, axis=0, keepdims=True)
    keys, values = A2 - jnp.mean(A2, axis=0, keepdims=True), A3 - mean
    count = jnp.asarray(A2.shape[0], A2.dtype)
    first = tt.matmul(keys.T, values) / count
    pairs = (keys[:, :, None] * keys[:, None, :]).reshape(keys.shape[0], -1)
    second = tt.matmul(pairs.T, values) / count
    return Moments(mean[0], first, second.reshape(keys.shape[1], keys.shape[1], -1))


def jet_of(A1: jax.Array, B: jax.Array, scale: jax.Array, nugget: jax.Array) -> Jet:
    """Posterior mean of the jet at 0 for the kernel `exp(scale · aᵀa')`, noise `nugget` times its mean diagonal.

    That kernel is the prior covariance of the layer when X and Y have independent Gaussian entries and many keys.
    Cost: n³/3 + n·d1²·c.
    """
    kernel = jnp.exp(scale * tt.matmul(A1, A1.T))
    level = nugget * jnp.trace(kernel) / A1.shape[0]
    factor = jnp.linalg.cholesky(kernel + level * jnp.eye(A1.shape[0], dtype=A1.dtype))
    alpha = cholesky_solve(factor, B)
    pairs = (A1[:, :, None] * A1[:, None, :]).reshape(A1.shape[0], -1)
    second = scale**2 * tt.matmul(pairs.T, alpha)
    return Jet(jnp.sum(alpha, axis=0), scale * tt.matmul(A1.T, alpha), second.reshape(A1.shape[1], A1.shape[1], -1))


def leave_one_out(A1: jax.Array, B: jax.Array, scale: jax.Array, nugget: jax.Array) -> jax.Array:
    """Mean squared leave-one-out error of that Gaussian process; inf where the kernel is numerically singular."""
    kernel = jnp.exp(scale * tt.matmul(A1, A1.T))
    level = nugget * jnp.trace(kernel) / A1.shape[0]
    inverse = jnp.linalg.inv(kernel + level * jnp.eye(A1.shape[0], dtype=A1.dtype))
    error = tt.matmul(inverse, B) / jnp.diagonal(inverse)[:, None]
    score = jnp.mean(error**2)
    return jnp.where(jnp.isfinite(score) & jnp.all(jnp.diagonal(inverse) > 0), score, jnp.inf)


@pytree_dataclass()
class JetObjective(Objective):
    """The squared mismatch of the jets, in units of the target's, plus a ridge: a first-order objective.

    `Σ w_k ‖jet_k(X, Y) − G_k‖² / Σ_{k≥1} w_k ‖G_k‖² + ridge (‖X‖² + ‖Y‖²) / (d1·d2)`.

    Weights: `w_0 = 1, w_1 = 1/d1, w_2 = weight/d1²`: the mean square of each order on queries of unit covariance. The
    unknowns are in units of their prior size (`unit`), so that a standard normal start means the same on every problem.

    Args:
        source: moments, with a leading document axis. target: jets, with the same.
        unit: sizes of the entries of X and Y, two scalars, floating point like all arrays here.
        ridge: scalar, coefficient of `(‖X‖² + ‖Y‖²) / (d1·d2)` in those units.
        weight: scalar, of the second order against the others.

    Precision: gradient against autodiff (tests/objectives/test_jets.py).
    Raises: ProblemError for unknowns of another shape or dtype.

    Cost: 7·d⁴ multiplications a value and gradient and document.
    Source: derived in docs/theory/one_layer.md; gradient against autodiff in tests/objectives/test_jets.py.
    """

    source: Moments
    target: Jet
    unit: Unknowns
    ridge: jax.Array
    weight: jax.Array

    def _weights(self):
        d1 = jnp.asarray(self.target.G1.shape[1], self.ridge.dtype)
        _, G1, G2 = self.target
        w1, w2 = 1 / d1, self.weight / d1**2
        size = w1 * jnp.sum(G1**2) + w2 * jnp.sum(G2**2)
        size = jnp.where(size > 0, size, jnp.ones_like(size))
        d2 = self.source.C.shape[1]
        return 1 / size, w1 / size, w2 / size, self.ridge / (d1 * d2)

    def value(self, x: Unknowns) -> jax.Array:
        """The mismatch at x, in prior units."""
        return self.value_and_grad(x)[0]

    @compiled()
    def value_and_grad(self, x: Unknowns) -> tuple[jax.Array, Unknowns]:
        """The mismatch and its gradient at x, in prior units."""
        w0, w1, w2, ridge = self._weights()
        value, gX, gY = ridge * (jnp.sum(x.X**2) + jnp.sum(x.Y**2)), 2 * ridge * x.X, 2 * ridge * x.Y
        X, Y = self.unit.X * x.X, self.unit.Y * x.Y
        for document in range(self.source.m.shape[0]):
            m, C, S = (t[document] for t in self.source)
            G0, G1, G2 = (t[document] for t in self.target)
            part, dX, dY = _mismatch(X, Y, m, C, S, G0, G1, G2, (w0, w1, w2))
            value, gX, gY = value + part, gX + self.unit.X * dX, gY + self.unit.Y * dY
        return value, Unknowns(gX, gY)

    def zeros(self) -> Unknowns:
        """X = 0, Y = 0, a saddle."""
        d1, c = self.target.G1.shape[1:]
        d2, d3 = self.source.C.shape[1:]
        return Unknowns(jnp.zeros((d1, d2), self.ridge.dtype), jnp.zeros((d3, c), self.ridge.dtype))

    def start(self) -> Unknowns:
        """A standard normal draw from a fixed key, a tenth of the prior size: zero is a saddle."""
        keys = jax.random.split(jax.random.key(0), 2)
        draws = (
            jax.random.normal(key, part.shape, part.dtype) / 10 for key, part in zip(keys, self.zeros(), strict=True)
        )
        return Unknowns(*draws)


def _mismatch(X, Y, m, C, S, G0, G1, G2, weights):
    """Value and gradients in X and Y of one document's mismatch."""
    w0, w1, w2 = weights
    (d1, d2), (d3, c) = X.shape, Y.shape
    T = tt.matmul(S.reshape(d2 * d2, d3), Y).reshape(d2, d2, c)
    half = tt.matmul(X, T.reshape(d2, d2 * c)).reshape(d1, d2, c)
    # XT is (d1, d2, c) in (x, b, m); contracting b with the second X gives the second-order jet.
    R2 = tt.einsum("yb,xbm->xym", X, half) - G2
    R1 = tt.matmul(tt.matmul(X, C), Y) - G1
    R0 = tt.matmul(m, Y) - G0
    value = w0 * jnp.sum(R0**2) + w1 * jnp.sum(R1**2) + w2 * jnp.sum(R2**2)
    # R2 and T are symmetric in their first two axes, so both factors X contribute the same.
    dX = 2 * w1 * tt.matmul(R1, tt.matmul(C, Y).T) + 4 * w2 * tt.einsum("xym,yam->xa", R2, half)
    back = tt.einsum("xa,xbm->abm", X, tt.einsum("yb,xym->xbm", X, R2)).reshape(d2 * d2, c)
    dY = 2 * w0 * m[:, None] * R0[None, :] + 2 * w1 * tt.matmul(tt.matmul(X, C).T, R1)
    return value, dX, dY + 2 * w2 * tt.matmul(S.reshape(d2 * d2, d3).T, back)


# Kernel scales in units of 1 / mean ‖a‖², and noise levels, from which leave-one-out chooses.
SCALES = (0.25, 1.0, 2.0)
NUGGETS = (1e-10, 1e-4, 1e-1)
CHOICE_ROWS, JET_ROWS = 256, 1024


def jet_problem(problem: OneLayerRegression, *, ridge: float = 0.0, weight: float = 0.3) -> JetObjective:
    """The jet problem of a one-layer problem without masks, kernel chosen by leave-one-out error.

    Args:
        problem: documents must have no mask; queries at least 2 per document.
        ridge, weight: see `JetObjective`.

    Returns:
        The objective in `Unknowns` of unit prior size: multiply by `objective.unit` for X, Y.

    Precision: that of a Cholesky factor of the kernel with its nugget, at least 10 eps.
    Cost: n³/3 for the kernel of at most 1024 queries a document, and m·d2²·d3 for the moments.
    Raises:
        ValueError: for a masked or causal problem, whose rows do not share moments.
    Source: derived in docs/theory/one_layer.md.
    """
    if problem.mask is not None or problem.causal:
        raise ValueError("a jet needs all rows to see the same keys, but the problem has a mask or causal=True")
    dtype = problem.dtype
    A1, B = problem.A1[:, :JET_ROWS], problem.B[:, :JET_ROWS]
    typical = jnp.mean(jnp.sum(A1**2, axis=2))
    nuggets = [max(v, float(10 * jnp.finfo(dtype).eps)) for v in NUGGETS]
    grid = [(s / typical, jnp.asarray(v, dtype)) for s in SCALES for v in nuggets]
    scores = jnp.stack([leave_one_out(A1[0, :CHOICE_ROWS], B[0, :CHOICE_ROWS], *pair) for pair in grid])
    best = jnp.argmin(scores)
    scale, nugget = (jnp.stack([jnp.asarray(x, dtype) for x in column])[best] for column in zip(*grid, strict=True))
    source = jax.vmap(moments)(problem.A2, problem.A3)
    target = jax.vmap(jet_of, (0, 0, None, None))(A1, B, scale, nugget)
    # Prior sizes: the kernel says how much a query spreads the logits, the first-order jet how large the output is.
    spread = jnp.mean(jnp.sum((problem.A2 - jnp.mean(problem.A2, axis=1, keepdims=True)) ** 2, axis=2))
    unit_x = jnp.sqrt(scale / spread)
    sized = unit_x**2 * target.G1.shape[1] * target.G1.shape[2] * jnp.sum(source.C**2)
    unit_y = jnp.sqrt(jnp.sum(target.G1**2) / jnp.where(sized > 0, sized, jnp.ones_like(sized)))
    return JetObjective(source, target, Unknowns(unit_x, unit_y), jnp.asarray(ridge, dtype), jnp.asarray(weight, dtype))
