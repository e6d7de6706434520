"""`fit_layer`: the weights of an attention layer from what it reads and what it writes."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from attnreg.fit.coordinates import Coordinates, scaled, variation, whitened
from attnreg.fit.determined import determined
from attnreg.fit.first_phase import Stochastic, checked_stochastic, phase_steps, stochastic_slices
from attnreg.fit.gauss_newton import Options, announce_steps, checked_options, gauss_newton_steps
from attnreg.fit.layer import fit_one_layer
from attnreg.fit.layer_fit import LayerFit, checked_logits
from attnreg.fit.watch import Progress, Watch, check_limits, judged, unseen
from attnreg.objectives.factors import Factors
from attnreg.objectives.layer import LayerObjective
from attnreg.parallel import Spread, agree, spread
from attnreg.problems.arrays import placed
from attnreg.problems.checks import ProblemError
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.one_layer import OneLayerRegression
from attnreg.problems.rotary import Rotary

# A first phase whose loss stays above this has not found a basin. It is drawn again, this many times in all, each time
# at half the rate for twice the steps: layer 0 head 1 of MiniLM is lost at 3e-3 and found at 2e-3, whatever the key.
LOST, ATTEMPTS = 0.3, 3
# A second phase that stalls above this is in a local minimum, or the data are noisy. There are so many starts in all.
POOR, STARTS = 1e-2, 8
# Width up to which `fit_one_layer` searches for the basin of one head: its jets find small unknowns from few rows.
SMALL = 24


def fit_layer(
    A: ArrayLike,
    outputs: ArrayLike,
    *,
    rank: int,
    heads: int = 1,
    value_rank: int | None = None,
    key_heads: int | None = None,
    rotary: Rotary | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    heldout: tuple[ArrayLike, ...] | None = None,
    tol: float = 1e-8,
    seconds: float = 120.0,
    key: jax.Array | None = None,
    start: LayerWeights | None = None,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
    first: Stochastic | None = None,
    second: Options | None = None,
    mesh: Mesh | None = None,
) -> LayerFit:
    """Weights with which `Σ_h softmax(A Q_h K_hᵀ Aᵀ) A V_h O_h` is near `outputs`.

    First Muon on a few documents at a time from small weights, which finds the basin. Then Levenberg–Marquardt on all
    documents in whitened inputs, which goes down to rounding if such weights exist. Where this stalls above a loss of
    1e-2, other starts are tried while the time lasts, eight in all. One of them comes from the search of
    `fit_one_layer` if there is one unmasked head, at most 24 wide: the first for so few documents as one batch has.

    Args:
        A: (…, n, d) what the layer reads; leading axes are documents. outputs: (…, n, c) what it writes.
        rank: r, the width of queries and keys. heads: h, their outputs add up.
        value_rank: s, the width of the values; None takes V (h, d, c) whole and no O.
        key_heads: g, how many heads of keys (and values, where there is an O) the queries share; None is h.
        rotary: a `Rotary`, whose positions, if it has any, hold for held-out documents too. scale, soft_cap: of the
            logits, see `LayerRegression`; None is without.
        mask: boolean, broadcastable to (…, n, n), True where a query may attend a key. causal: keys ≤ query only.
        heldout: documents to judge by, `(A, outputs)` or `(A, outputs, mask)`.
        tol: loss at which to stop, held out if there is such, in units of the deviation from the column mean.
        seconds: wall time after which it ends with what it has (compiling counts too).
        key: PRNG key; None is `jax.random.key(0)`.
        start: weights to go on from instead of the first phase.
        callback: called with `Progress`. progress: whether to print, on stderr, how far it is, every few seconds.
        first, second: constants of the two phases.
        mesh: devices to share the work, documents apart: `attnreg.parallel.make_mesh()`. Every process of it calls with
            the same arguments. The search of `fit_one_layer` is left out there.

    Returns:
        `LayerFit`, with the weights of the best held-out (else training) loss.

    Precision: weights have the dtype of A.
    Cost: `Stochastic.steps` gradients of a few documents, then per step up to `Options.max_products` products of
        `LayerObjective`; memory as there.
    Raises:
        ProblemError: for data or options that do not fit.
    Source: Levenberg–Marquardt in the metric of a Kronecker-factored curvature; closed forms in
        `attnreg.objectives.layer_blocks`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from attnreg.fit.layer_fit import predict
        >>> rng = np.random.default_rng(0)
        >>> A, X, V = (rng.normal(size=s).astype("float32") for s in ((12, 32, 6), (6, 2), (6, 3)))
        >>> file = tempfile.NamedTemporaryFile(suffix=".npz")  # stands for your own file
        >>> np.savez(file.name, A=A, B=predict(LayerWeights(X[None], X[None] / 2, V[None]), A))
        >>> data = np.load(file.name)
        >>> fit = fit_layer(data["A"][:8], data["B"][:8], rank=2, heldout=(data["A"][8:], data["B"][8:]))
        >>> fit.heldout < 1e-6, fit.weights.Q.shape, fit.predict(data["A"]).shape
        (True, (1, 6, 2), (12, 32, 3))
    """
    check_limits(tol, seconds, callback, progress)
    first, second = checked_stochastic(first), checked_options(second)
    logits = checked_logits(causal, rotary, scale, soft_cap)
    problem = LayerRegression(placed(A), placed(outputs), mask, causal, rotary, scale, soft_cap)
    objective = LayerObjective(problem, heads, rank, value_rank, key_heads=key_heads)
    judge = None
    if heldout is not None:
        documents = LayerRegression(*unseen(heldout, "outputs", problem.A), causal, rotary, scale, soft_cap)
        if documents.sizes[3] != problem.sizes[3]:
            raise ProblemError(f"heldout outputs are {documents.sizes[3]} wide; they must be {problem.sizes[3]}")
        judge = judged(dataclasses.replace(objective, problem=documents), variation(documents) or 1.0, mesh)
    alike = bool if mesh is None else agree
    watch = Watch(variation(problem), judge, tol, seconds, callback, alike, progress)
    if start is not None:
        if isinstance(start, LayerWeights):
            start = jax.tree.map(lambda W: jnp.asarray(W, problem.dtype), start)
        objective.check(start, "start")
    coordinates, input_rank = whitened(problem)
    key = jax.random.key(0) if key is None else key
    _run(objective, watch, coordinates, key, start, first, second, mesh)
    train, held, weights = watch.best()
    host = jax.tree.map(np.asarray, weights)
    known = determined(objective, input_rank, rotary)
    return LayerFit(host, train, held, watch.reason or "stalled", known, watch.elapsed(), tuple(watch.trace), logits)


def _run(
    objective: LayerObjective,
    watch: Watch,
    coordinates: Coordinates,
    key,
    start,
    first: Stochastic,
    second: Options,
    mesh: Mesh | None,
) -> None:
    """Both phases until the watch says stop, from further starts while they end in a poor minimum."""
    white = dataclasses.replace(objective, problem=coordinates.problem(objective.problem))
    unit = watch.unit / coordinates.size**2
    if mesh is not None:
        white = spread(white, mesh)
    if not isinstance(white, Spread):
        announce_steps(white, white.zeros())
    # One batch of few documents is no stochastic phase: there the jets come first.
    turn = 0 if objective.problem.sizes[0] <= first.documents else 1
    for attempt in range(STARTS):
        weights = start if attempt == 0 else None
        if weights is None and attempt == turn and mesh is None:  # that search hangs on the clock of a process
            weights = _from_jets(objective, watch, key)
        if weights is None:
            weights = _find_basin(objective, watch, jax.random.fold_in(key, attempt) if attempt else key, first, mesh)
        if watch.reason:
            return
        train = float("inf")
        x = coordinates.weights_in(weights)
        x = white.place(x) if isinstance(white, Spread) else x
        steps = gauss_newton_steps(white, x, second, watch.expired)
        for number, step in enumerate(steps, 1):
            train = step.value / unit
            if watch.note("gauss_newton", number, train, coordinates.weights_back(step.params)):
                return
        if train <= POOR:
            return


def _from_jets(objective: LayerObjective, watch: Watch, key) -> LayerWeights | None:
    """Weights of a small head by the search of `fit_one_layer`; None where that does not apply or finds nothing."""
    problem = objective.problem
    made = (problem.mask, problem.rotary, problem.scale, problem.soft_cap)
    plain = all(part is None for part in made) and not problem.causal
    if objective.heads > 1 or objective.value_rank is not None or not plain or problem.sizes[2] > SMALL:
        return None
    A = problem.A
    found = fit_one_layer(key, OneLayerRegression(A, A, A, problem.B), seconds=watch.left() / 2)
    part, zeros = Factors.nearest(found.params.X, objective.rank), objective.zeros()
    width = part.Q.shape[1]  # at most d, whatever the rank asked for
    Q, K = zeros.Q.at[0, :, :width].set(part.Q), zeros.K.at[0, :, :width].set(part.K)
    weights = LayerWeights(Q, K, found.params.Y[None])
    train = float(objective.value(weights)) / watch.unit
    watch.note("jets", found.batches, train, weights)
    return weights if train <= LOST else None


def _find_basin(objective: LayerObjective, watch: Watch, key, options: Stochastic, mesh: Mesh | None) -> LayerWeights:
    """The first phase, drawn again while it ends lost; the weights of the attempt that ended lowest."""
    coordinates = scaled(objective.problem)
    small = dataclasses.replace(objective, problem=coordinates.problem(objective.problem))
    lowest, found = float("inf"), None
    steps = phase_steps(options, objective.problem.sizes[0])
    for attempt in range(ATTEMPTS):
        part, loss = None, float("inf")
        slower = options._replace(steps=steps * 2**attempt, learning_rate=options.learning_rate / 2**attempt)
        for part in stochastic_slices(small, jax.random.fold_in(key, attempt), slower, mesh):
            loss = part.loss
            if watch.note("stochastic", part.steps, loss, coordinates.weights_back(part.params)):
                break
        assert part is not None
        if found is None or loss < lowest:
            lowest, found = loss, coordinates.weights_back(part.params)
        if watch.reason or lowest <= LOST:
            break
    assert found is not None
    return found
