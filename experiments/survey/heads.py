"""Every head of a model: how it attends, and how well its weights are found from its maps."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnreg.data.models import Model
from attnreg.data.models.blocks import embed
from attnreg.data.models.passes import checked
from attnreg.data.models.regression import folding, rotary_of
from attnreg.problems.checks import check_integer, check_number
from experiments.runner.about import About, Metric
from experiments.runner.record import Record
from experiments.survey import report
from experiments.survey.fits import FITS, Heads, Texts
from experiments.survey.models import load
from experiments.survey.report import COLUMNS
from experiments.survey.statistics import STATISTICS, Passed, layer_pass, table_of

ABOUT = About(
    "All heads of a model",
    "How every head attends, and how well its weights are found from its maps.",
    (
        Metric("heads", "heads looked at", better=""),
        Metric("sharpness", "sd of row-centred logits, median head", better="", path="median.sharpness"),
        Metric("start", "held-out loss of the closed-form start, median head", path="median.start", always=False),
        Metric("heldout", "held-out loss of the fit, median head", path="median.heldout", always=False),
    ),
)


class State(NamedTuple):
    """What a checkpoint holds: the layer under way, its heads that are done, what it is given, and the table."""

    layer: int
    head: int
    step: int
    hidden: Any
    table: np.ndarray


def run(config: Any, record: Record) -> dict[str, Any]:
    """Layer by layer, one pass over the texts; then the table and the picture of all heads."""
    check_number("fit.seconds", config.fit.seconds, at_least=0)
    check_integer("fit.start_products", config.fit.start_products, at_least=0)
    begun = time.perf_counter()
    model, ids = load(config)
    layers = _layers(config, model)
    shape = model.config
    record.say(
        f"{config.data.model}: {shape.layers} layers of {shape.heads} heads, {ids.shape[0]} texts × {ids.shape[1]}"
    )
    table = np.full((shape.layers, shape.heads, len(COLUMNS)), np.nan)
    state = record.restore(State(0, 0, 0, _embedded(model, ids), table))[1]
    state = State(int(state.layer), int(state.head), int(state.step), jnp.asarray(state.hidden), np.array(state.table))
    fits = shape.heads * len(layers) if config.fit.seconds else 0
    record.expect(max(layers) + 1 + fits)
    while state.layer <= max(layers):
        state = _layer(config, record, model, state, wanted=state.layer in layers)
    return report.report(record, config, state.table, layers, time.perf_counter() - begun)


def _layers(config: Any, model: Model) -> list[int]:
    """The layers that are asked for, all of them where the config names none."""
    for layer in config.layers:
        check_integer("layers", layer, at_least=0, at_most=model.config.layers - 1)
    return sorted(set(config.layers)) or list(range(model.config.layers))


def _embedded(model: Model, ids: np.ndarray) -> jax.Array:
    for document in ids:
        checked(model.config, document, None)
    few = model.parameters._replace(layers=())
    # The words are an argument: as constants of the program they would be compiled into it.
    return jax.jit(lambda few, ids: jax.vmap(lambda x: embed(model.config, few, x))(ids))(few, jnp.asarray(ids))


def _layer(config: Any, record: Record, model: Model, state: State, *, wanted: bool) -> State:
    """One layer: its pass, the start of its heads in one batch, and each head that is not done."""
    options, layer = config.fit, state.layer
    fitting = wanted and bool(options.seconds)
    starting = wanted and bool(options.start_products) and not model.config.rotary_width
    passed = layer_pass(model.config, model.parameters.layers[layer], state.hidden, keep=wanted)
    table, heads = state.table.copy(), Heads(model.config.head_width, model.config.causal, rotary_of(model.config))
    if wanted:
        table[layer, :, : len(STATISTICS)] = table_of(passed.sums)
    texts = _texts(config, model, layer, passed) if wanted else None
    spent: dict[str, float] = {}
    if texts is not None and state.head == 0:
        unknowns, known = heads.known(texts)
        _put(table, layer, unknowns=unknowns, determined=known)
        if starting:
            begun = time.process_time()
            _put(table, layer, start=heads.starts(texts, options.start_products, options.batch))
            spent = {"start_cpu_seconds": time.process_time() - begun}
    for head in range(state.head, model.config.heads if fitting else 0):
        assert texts is not None  # as the layer is wanted
        found = dict(zip(FITS, heads.fit(texts, head, tol=options.tol, seconds=options.seconds), strict=True))
        table = table.copy()
        _put(table, (layer, head), **found)
        state = State(layer, head + 1, state.step + 1, state.hidden, table)
        record.log(state.step, layer=layer, head=head, **found)
        record.save(state.step, state)
    done = State(layer + 1, 0, state.step + 1, passed.hidden, table)
    means = {name: float(np.mean(table[layer, :, i])) for i, name in enumerate(STATISTICS)} if wanted else {}
    record.log(done.step, layer=layer, **means, **spent)
    record.save(done.step, done)
    return done


def _put(table: np.ndarray, where: Any, **values: Any) -> None:
    """Columns of the table, in place."""
    for name, value in values.items():
        table[where][..., COLUMNS.index(name)] = value


def _texts(config: Any, model: Model, layer: int, passed: Passed) -> Texts:
    """Inputs and maps of training and held-out documents; a column of ones where biases need one."""
    A, maps, k = np.asarray(passed.inputs), np.asarray(passed.maps), config.data.documents
    if folding(model, layer) == "column":
        A = np.concatenate([A, np.ones_like(A[..., :1])], axis=-1)
    return Texts(A[:k], maps[:k], A[k:], maps[k:])
