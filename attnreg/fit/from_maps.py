"""`fit_attention`: queries and keys from what a head reads and its attention maps, by way of the maps' logarithms.

A softmax gives its logits away up to a constant per row: with C centring the allowed keys of a row,
`C(A X Aᵀ) = C log B` is linear in X. Its least-squares solution, cut to rank r, is exact for maps without noise; from
there Levenberg–Marquardt on the maps themselves gives the answer for rounded or noisy ones. With rotary positions or a
soft cap there is no such matrix, and `attnreg.fit.map_phases` finds the head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from attnreg.fit.coordinates import squared_norm, whitened
from attnreg.fit.determined import determined_maps
from attnreg.fit.gauss_newton import Options, checked_options, gauss_newton_steps
from attnreg.fit.layer_fit import MapFit, checked_logits
from attnreg.fit.map_phases import every_phase, trusted
from attnreg.fit.watch import Progress, Watch, check_limits, judged, unseen
from attnreg.lift import tensor_trick as tt
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.parallel import Spread, agree, spread
from attnreg.problems.arrays import placed
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.checks import ProblemError, check_integer, replaced
from attnreg.problems.layer import LayerRegression
from attnreg.problems.rotary import Rotary

# How far from 1, root mean square, a combination of the keys may be to count as constant: half precision is 4e-4 off.
CONSTANT = 1e-2


def _masked(problem: AttentionRegression, i) -> jax.Array:
    """Where the logarithm of document i's map can be trusted, (n, n)."""
    mask = None if problem.mask is None else jnp.asarray(problem.mask)
    mask = None if mask is None else mask[jnp.minimum(i, mask.shape[0] - 1)]
    seen = trusted(replaced(problem, B=jnp.asarray(problem.B)[i], mask=mask))
    return jnp.asarray(jnp.tril(seen) if problem.causal else seen)


def _centred(T: jax.Array, seen: jax.Array) -> jax.Array:
    """T minus its mean over the seen keys of each row, 0 elsewhere: a symmetric projection."""
    T = jnp.where(seen, T, 0)
    count = jnp.maximum(jnp.sum(seen, axis=1, keepdims=True), 1).astype(T.dtype)
    return jnp.where(seen, T - jnp.sum(T, axis=1, keepdims=True) / count, 0)


def _without_gauge(keys: jax.Array, axis_name: str | None) -> Callable[[jax.Array], jax.Array]:
    """Takes the part along u out of the rows of X, where white keys (k, m, d) have `keys u ≈ 1`; else changes nothing.

    `X + v uᵀ` adds a constant to each row of logits, so nothing determines v. Rounding alone would fill it, until the
    cut to rank r takes it for the largest direction.
    """
    sums = jnp.sum(keys, axis=(0, 1)), jnp.asarray(keys.shape[0] * keys.shape[1], keys.dtype)
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    u = total / count
    off = jnp.sum((tt.matmul(keys, u[:, None]) - 1) ** 2)
    off = off if axis_name is None else jax.lax.psum(off, axis_name)
    part = jnp.where(off < CONSTANT**2 * count, 1 / jnp.maximum(jnp.sum(u * u), 0.5), 0)
    return lambda X: X - part * tt.matmul(tt.matmul(X, u[:, None]), u[None, :])


@jax.jit(static_argnames=("products", "axis_name"))
def logit_least_squares(problem: AttentionRegression, products: int, axis_name: str | None = None) -> jax.Array:
    """X (d, d) minimising `Σ ‖C(A X Aᵀ) − C log B‖²`, by conjugate gradients from 0; the inputs should be white.

    axis_name: inside `shard_map`, the mesh axis over which documents (or rows) are split.

    Cost: `products` times `8·n·d·(n + d)` flops per document.
    """
    A, keys, documents = problem.A1, problem.A2, problem.A1.shape[0]
    zero = jnp.zeros(problem.shape, problem.dtype)

    def total(emit):
        out = jax.lax.fori_loop(0, documents, lambda i, out: out + emit(i), zero)
        return out if axis_name is None else jax.lax.psum(out, axis_name)

    def right(i):
        seen = _masked(problem, i)
        logs = jnp.log(jnp.where(seen, jnp.asarray(problem.B)[i], 1))
        return tt.lift_gradient(A[i], _centred(logs, seen), keys[i])

    def product(X, i):
        return tt.lift_gradient(A[i], _centred(tt.logits(A[i], X, keys[i]), _masked(problem, i)), keys[i])

    ungauged = _without_gauge(keys, axis_name)

    def normal(X):
        return ungauged(total(lambda i: product(X, i)))

    b = ungauged(total(right))
    eps = jnp.finfo(problem.dtype).eps
    return jax.scipy.sparse.linalg.cg(normal, b, tol=float(eps), maxiter=products)[0]


def logarithm_start(objective: FactoredObjective, products: int = 60) -> Factors:
    """Factors of the best part of `logit_least_squares` of the objective's rank, split evenly between Q and K."""
    scale = objective.problem.scale
    X = logit_least_squares(objective.problem, products, objective.axis_name)
    return Factors.nearest(X if scale is None else X / scale, objective.rank)


def fit_attention(
    A: ArrayLike,
    maps: ArrayLike,
    *,
    rank: int,
    rotary: Rotary | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    heldout: tuple[ArrayLike, ...] | None = None,
    tol: float = 1e-10,
    seconds: float = 120.0,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
    second: Options | None = None,
    mesh: Mesh | None = None,
) -> MapFit:
    """Q, K (d, r) with which `softmax(A Q Kᵀ Aᵀ)` is near `maps`.

    Args:
        A: (…, n, d) what the head reads; leading axes are documents. maps: (…, n, n) its attention maps.
        rank: r.
        rotary: a `Rotary`, whose positions, if it has any, hold for held-out documents too; then `maps` are the softmax
            of `⟨R_i Qᵀa_i, R_j Kᵀa_j⟩`. scale, soft_cap: of the logits, see `AttentionRegression`.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key. causal: keys ≤ query.
        heldout: documents to judge by, `(A, maps)` or `(A, maps, mask)`.
        tol: loss at which to stop, held out if there is such, relative to the squared norm of the maps.
        seconds: wall time after which it ends with what it has.
        callback: called with `Progress`. progress: whether to print, on stderr, how far it is, every few seconds.
        second: constants of Levenberg–Marquardt.
        mesh: devices to share the work, documents (or queries) apart: `attnreg.parallel.make_mesh()`. Every process of
            it makes the same call. None takes one device.

    Returns:
        `MapFit`, with the weights of the best held-out (else training) loss.

    Precision: exact to the rounding of the maps when such weights exist; entries that underflowed are left to the
        second phase.
    Cost: about 60 products with `8·n·d·(n + d)` flops per document, then steps on `FactoredObjective`.
    Raises:
        ProblemError: for data or options that do not fit.
    Source: derived at the head of this file.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> A, Q, K = (rng.normal(size=s).astype("float32") for s in ((4, 20, 6), (6, 2), (6, 2)))
        >>> S = 3 * A @ Q @ K.T @ np.swapaxes(A, 1, 2)
        >>> maps = np.exp(S - S.max(-1, keepdims=True))
        >>> maps /= maps.sum(-1, keepdims=True)
        >>> fit = fit_attention(A[:3], maps[:3], rank=2, heldout=(A[3:], maps[3:]))
        >>> fit.heldout < 1e-8, fit.weights.Q.shape
        (True, (6, 2))
    """
    check_limits(tol, seconds, callback, progress)
    check_integer("rank", rank, at_least=1)
    second = checked_options(second)
    A = placed(A)
    logits = checked_logits(causal, rotary, scale, soft_cap)
    options: dict[str, Any] = dict(causal=causal, rotary=rotary, scale=scale, soft_cap=soft_cap)
    problem = AttentionRegression(A, A, placed(maps), mask=mask, **options)
    if mesh is not None and (rotary is not None or soft_cap is not None):
        raise ProblemError("mesh: fits with rotary positions or a soft cap run on one device; leave mesh out")
    judge = None
    if heldout is not None:
        Ah, maps_h, mask_h = unseen(heldout, "maps", A)
        documents = AttentionRegression(Ah, Ah, maps_h, mask=mask_h, **options)
        judge = judged(FactoredObjective(documents, rank), squared_norm(documents.B), mesh)
    reads = LayerRegression(problem.A1, problem.A1, problem.mask, causal)
    coordinates, input_rank = whitened(reads)
    white = coordinates.inputs(reads.A)
    alike = bool if mesh is None else agree
    watch = Watch(squared_norm(problem.B), judge, tol, seconds, callback, alike, progress)
    objective = FactoredObjective(replaced(problem, A1=white, A2=white), rank)
    objective = objective if mesh is None else spread(objective, mesh)
    _run(objective, watch, coordinates, second)
    train, held, weights = watch.best()
    host = jax.tree.map(np.asarray, weights)
    known = determined_maps(problem, rank, input_rank, rotary)
    return MapFit(host, train, held, watch.reason or "stalled", known, watch.elapsed(), tuple(watch.trace), logits)


def _run(objective: Any, watch: Watch, coordinates, options: Options) -> None:
    """The start and the steps, until the watch says stop."""

    def back(x: Factors) -> Factors:
        return jax.tree.map(lambda W: placed((coordinates.into @ np.asarray(W, np.float64)).astype(W.dtype)), x)

    shared = isinstance(objective, Spread)
    if not shared and (objective.problem.rotary is not None or objective.problem.soft_cap is not None):
        every_phase(objective, watch, back, options)
        return
    x = objective.on_mesh(logarithm_start) if shared else logarithm_start(objective)
    if watch.note("logarithms", 1, float(objective.value(x)) / watch.unit, back(x)):
        return
    for number, step in enumerate(gauss_newton_steps(objective, x, options, watch.expired), 1):
        if watch.note("gauss_newton", number, step.value / watch.unit, back(step.params)):
            return
