"""The stochastic first phase of a fit: Muon on a few documents at a time, from small weights, in compiled slices.

Muon moves along the momentum with its singular values made equal: all directions of a weight grow at one speed, where
Adam's grow one after another. A step has the same size however small the gradient is. So the logits of a head that is
not needed yet grow on noise until its rows are saturated, and from there it does not come back. Two things hold them:
weights decay, and queries and keys move slower than values. On a layer of 12 heads of MiniLM four heads ended so, with
logits 10 to 50 wide where the true ones are 0.7 to 3.6; held out, 1,600 steps ended at 0.25, and with both at 0.083.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from attnreg.fit.coordinates import OUTPUT_SIZE, batch
from attnreg.objectives.layer import LayerObjective
from attnreg.parallel import Spread, place
from attnreg.parallel.mesh import DATA
from attnreg.problems.checks import ProblemError, check_integer, check_number, replaced

if TYPE_CHECKING:
    import optax  # imported where it is used: see attnreg.solvers.optax

# Passes over the documents, and the fewest steps.
PASSES, LEAST = 64, 1800
# Root mean square of an update at rate 1, times √d: N(0, 1/d) is the natural size of weights for inputs of size one.
UPDATE = 4.0


class Stochastic(NamedTuple):
    """Constants of the phase, measured on heads of MiniLM.

    The start is what matters: `scale` 0.2 keeps the maps near uniform at first, and sharp heads then find their basin;
    from 1 they end in a local minimum. steps: None is 64 passes over the documents, at least 1800. documents: per step.
    learning_rate: of Muon with updates of root mean square `UPDATE/√d`; twice as much loses heads of a layer.
    logit_rate: of queries and keys, relative to that. weight_decay: per step and unit of the rate. decay: of the
    momentum. slice_steps: steps of one compiled slice.
    """

    steps: int | None = None
    documents: int = 4
    learning_rate: float = 3e-3
    logit_rate: float = 0.4
    weight_decay: float = 1.0
    decay: float = 0.95
    scale: float = 0.2
    slice_steps: int = 50


def checked_stochastic(options: Stochastic | None) -> Stochastic:
    """The options, or the defaults for None; refuses anything else."""
    if options is None:
        return Stochastic()
    if not isinstance(options, Stochastic):
        raise ProblemError(f"first is a {type(options).__name__}; it must be attnreg.fit.first_phase.Stochastic")
    for name in ("documents", "slice_steps"):
        check_integer(f"first.{name}", getattr(options, name), at_least=1)
    check_number("first.learning_rate", options.learning_rate, above=0)
    check_number("first.logit_rate", options.logit_rate, above=0)
    check_number("first.weight_decay", options.weight_decay, at_least=0)
    check_number("first.decay", options.decay, at_least=0, below=1)
    check_number("first.scale", options.scale, above=0)
    if options.steps is not None:
        check_integer("first.steps", options.steps, at_least=1)
        if options.steps % options.slice_steps:
            raise ProblemError(
                f"first.steps is {options.steps}; it must be a multiple of {options.slice_steps}, slice_steps"
            )
    return options


class Slice(NamedTuple):
    """After a slice: the weights, the steps done, and the mean loss of its batches, relative to the deviation of B."""

    params: Any
    steps: int
    loss: float


def phase_steps(options: Stochastic, documents: int) -> int:
    """How many steps the phase has for so many documents."""
    if options.steps is not None:
        return options.steps
    slices = PASSES * documents / (min(options.documents, documents) * options.slice_steps)
    return max(LEAST, math.ceil(slices) * options.slice_steps)


def _optimizer(options: Stochastic, width: int) -> optax.GradientTransformation:
    import optax
    import optax.contrib

    assert options.steps is not None  # `stochastic_slices` has put it in
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps)
    each_head = optax.contrib.MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2,))
    muon = optax.contrib.muon(
        schedule,
        beta=options.decay,
        weight_decay=options.weight_decay,
        consistent_rms=UPDATE / math.sqrt(width),
        muon_weight_dimension_numbers=lambda weights: jax.tree.map(lambda _: each_head, weights),
    )

    def slower(updates: Any, _: Any) -> Any:
        return updates._replace(Q=options.logit_rate * updates.Q, K=options.logit_rate * updates.K)

    return optax.chain(muon, optax.stateless(slower))


@jax.jit(static_argnames=("options", "mesh"))
def _slice(objective: LayerObjective, x, state, key, options: Stochastic, mesh: Mesh | None):
    import optax

    problem = objective.problem
    k, n, d, c = problem.sizes
    documents = min(options.documents, k)

    def step(carry, key):
        x, state = carry
        index = jax.random.choice(key, k, (documents,), replace=False)
        few = replaced(objective, problem=batch(problem, index))
        few = few if mesh is None else Spread(few, mesh, "documents")
        value, gradient = few.value_and_grad(x)
        unit = jnp.asarray(1 / (documents * n * c * OUTPUT_SIZE**2), value.dtype)
        gradient = jax.tree.map(lambda g: g * unit, gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax raises an int32 count to a Python float
            updates, state = _optimizer(options, d).update(gradient, state, x)
        return (optax.apply_updates(x, updates), state), value * unit

    (x, state), losses = jax.lax.scan(step, (x, state), jax.random.split(key, options.slice_steps))
    return x, state, jnp.mean(losses)


def stochastic_slices(
    objective: LayerObjective, key: jax.Array, options: Stochastic | None = None, mesh: Mesh | None = None
) -> Iterator[Slice]:
    """Slices of the phase from a random small start. The problem must be in `coordinates.scaled` units.

    On a mesh every device holds all documents, and those of a step are divided; where their number does not divide by
    the devices, each device takes all of them.

    Cost: per step a value and gradient on `documents` documents.
    """
    options = options or Stochastic()
    key, sub = jax.random.split(key)
    x = objective.small_start(sub, options.scale)
    k, _, d, _ = objective.problem.sizes
    steps = phase_steps(options, k)
    options = options._replace(steps=steps)
    state = _optimizer(options, d).init(x)  # type: ignore[arg-type]
    if mesh is not None:
        objective, x, state, key = place((objective, x, state, key), mesh, PartitionSpec())
        mesh = mesh if min(options.documents, k) % mesh.shape[DATA] == 0 else None
    for done in range(options.slice_steps, steps + 1, options.slice_steps):
        key, sub = jax.random.split(key)
        x, state, loss = _slice(objective, x, state, sub, options, mesh)
        yield Slice(x, done, float(loss))
