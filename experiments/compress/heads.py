"""All heads of a model at several ranks: three closed forms and the fit after the softmax, judged on unseen texts."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from attnreg.data.models import ModelConfig, Projections, replace_heads, save_compressed
from attnreg.problems.checks import ProblemError, check_choice, check_integer, check_number
from experiments.compress import report
from experiments.compress.data import PARTS, LayerTexts, Texts, load, walk
from experiments.compress.judge import ModelJudge, layer_errors
from experiments.compress.methods import METHODS, OURS, TARGETS, LayerMethods
from experiments.runner.about import About, Metric
from experiments.runner.record import Record

ABOUT = About(
    "Heads of smaller rank",
    "Every head of a model is fitted at smaller ranks after the softmax, beside three closed forms, on unseen texts.",
    (
        Metric("gain", "least closed form's error over ours, worst rank", "higher", "ranks.*.gain.median", "min"),
        Metric("better", "share of heads where ours is better, worst rank", "higher", "ranks.*.better", "min"),
    ),
)

WHOLE = {True: ("perplexity", "excess_nats"), False: ("drift", "rank_correlation")}


def run(config: Any, record: Record) -> dict[str, Any]:
    """Compress layer by layer, then judge the model with all its heads replaced, rank by rank and method by method."""
    _check(config)
    texts = load(config)
    _check_heads(texts.model.config)
    record.say(texts.title)
    ranks, model = tuple(config.ranks), texts.model
    step, state = record.restore(empty_state(model.config, ranks))
    fits = min(config.layers or model.config.layers, model.config.layers) * len(ranks)
    whole = len(ranks) * len(METHODS) if fits == model.config.layers * len(ranks) else 0
    record.expect(fits + whole)
    for layer, index in _layers(config, texts, state, step, fits):
        step += 1
        record.log(step, layer=layer, rank=ranks[index], **report.progress(state, layer, index))
        record.save(step, state)
    judge = ModelJudge(model, texts.judge) if step < fits + whole else None
    for done in range(max(step, fits), fits + whole):
        assert judge is not None
        index, method = divmod(done - fits, len(METHODS))
        compressed = replace_heads(model, projections(state, ranks[index], method))
        numbers = judge.numbers(compressed)
        state["whole"][index, method] = [numbers[name] for name in WHOLE[model.config.causal]]
        record.log(done + 1, rank=ranks[index], method=METHODS[method], **numbers)
        record.save(done + 1, state)
    if record.writes and whole:
        for rank in ranks:
            note = {"texts": texts.title}
            path = record.workdir / f"compressed_rank{rank}.safetensors"
            save_compressed(path, model, projections(state, rank, METHODS.index(OURS)), note)
    return report.report(record, texts, ranks, state, fits // len(ranks), WHOLE[model.config.causal] if whole else ())


def _layers(config: Any, texts: Texts, state: dict[str, Any], step: int, fits: int) -> Iterator[tuple[int, int]]:
    """Fill the state, one layer at one rank after the other, from `step` on; layer and place of the rank of each."""
    ranks = tuple(config.ranks)
    first = step // len(ranks)
    for layer, parts in walk(texts, first) if step < fits else ():
        methods = LayerMethods(texts.model, layer, parts, config.fit)
        # Judged on as many training texts as there are test texts: the rest would take longer than the fits.
        judged = {name: LayerTexts(*(array[: config.data.test_documents] for array in p)) for name, p in parts.items()}
        for index in range(step % len(ranks) if layer == first else 0, len(ranks)):
            found = methods.at(ranks[index])
            state["seconds"][index, layer], state["pull"][index, layer] = found.seconds, found.pull
            for m, name in enumerate(METHODS):
                made = found.projections[name]
                state[f"query{ranks[index]}"][m, layer], state[f"key{ranks[index]}"][m, layer] = made
                for p, part in enumerate(PARTS):
                    errors = layer_errors(texts.model, layer, judged[part], made)
                    state["errors"][index, m, layer, p] = errors.maps, errors.heads
                    state["layers"][index, m, layer, p] = errors.layer
            yield layer, index
        if (layer + 1) * len(ranks) >= fits:
            return


def empty_state(config: ModelConfig, ranks: tuple[int, ...]) -> dict[str, Any]:
    """Arrays for all that is found; errors are (rank, method, layer, part, maps or outputs, head)."""
    layers, heads, m, r = config.layers, config.heads, len(METHODS), len(ranks)
    state = {
        "seconds": np.zeros((r, layers, heads)),
        "pull": np.zeros((r, layers, heads)),
        "errors": np.zeros((r, m, layers, len(PARTS), 2, heads)),
        "layers": np.zeros((r, m, layers, len(PARTS))),
        "whole": np.zeros((r, m, 2)),
    }
    for rank in ranks:
        state[f"query{rank}"] = np.zeros((m, layers, heads, config.head_width, rank), np.float32)
        state[f"key{rank}"] = np.zeros((m, layers, config.groups, config.head_width, rank), np.float32)
    return state


def projections(state: dict[str, Any], rank: int, method: int) -> list[Projections]:
    """The projections of every layer by one method."""
    return [Projections(*pair) for pair in zip(state[f"query{rank}"][method], state[f"key{rank}"][method], strict=True)]


def _check_heads(shape: ModelConfig) -> None:
    """Refuse a model whose heads no method compresses."""
    if shape.shared > 1 and not shape.rotary_width:
        raise ProblemError(
            f"the model has {shape.heads} query heads that share {shape.groups} key heads, and no rotary positions; "
            f"shared keys are compressed with rotary positions only, others where every head has keys of its own"
        )
    if shape.rotary_width not in (0, shape.head_width):
        raise ProblemError(
            f"the model turns {shape.rotary_width} of the {shape.head_width} columns of a head; heads are compressed "
            f"where rotary positions turn all columns or none"
        )


def _check(config: Any) -> None:
    if not config.ranks or len(set(config.ranks)) < len(config.ranks):
        raise ProblemError(f"ranks is {tuple(config.ranks)}; it must have one rank or more, each once")
    for rank in config.ranks:
        check_integer("ranks", rank, at_least=1)
    check_integer("layers", config.layers, at_least=0)
    check_choice("fit.targets", config.fit.targets, TARGETS)
    check_integer("fit.steps", config.fit.steps, at_least=1)
    check_integer("fit.rotary_steps", config.fit.rotary_steps, at_least=1)
    for pull in config.fit.pulls:
        check_number("fit.pulls", pull, at_least=0)
