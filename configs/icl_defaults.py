"""Every knob of an in-context-learning config, once; a config states what differs. No config itself."""

from typing import Any

from ml_collections import ConfigDict

_SECTIONS: dict[str, dict[str, Any]] = {
    "task": dict(
        inputs="gaussian",
        input_scale=1.0,
        weight_scale=1.0,
        noise=0.0,
        distractors=0,
        pool=0,
    ),
    "model": dict(
        attention=("linear",),
        heads=1,
        shared=False,
        parametrisation="merged",
        key_size=0,
        mlp=0,
        layer_norm=False,
        init_scale=0.05,
        tokens=dict(layout="concatenated", code=0, scratch=0),
    ),
    "train": dict(b1=0.9, b2=0.98, clip=10.0, warmup=0, decay=0.02, prng="threefry2x32"),
    "evaluation": dict(seed=0, tune=4096, curve=1024, final=8192, fit=2048, shift=4096, block=256),
}
# One size for all: equal shapes compile once, and a smoke run is mostly compilation.
_SMOKE_EVALUATION = dict(tune=32, curve=32, final=32, fit=32, shift=32, block=32)
_NEEDED = {"task": ("problem", "dimension", "length", "queries"), "train": ("steps", "batch")}


def base(
    *,
    task: dict[str, Any],
    train: dict[str, Any],
    arms: dict[str, dict[str, Any]],
    seeds: int,
    learning_rate: float,
    chunk: int,
    model: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    shifts: dict[str, tuple[Any, ...]] | None = None,
    analyses: tuple[str, ...] = (),
    chart: str = "",
    rows: str = "",
    smoke: bool = False,
) -> ConfigDict:
    """A complete config of `experiments/icl/train.py`.

    Args:
        task: section of `attnreg.icl.tasks.TaskConfig`.
        train: section of `attnreg.icl.training.TrainConfig`.
        arms: name → {"series": label, "x": number, and overrides of "task", "model", "train"}.
        seeds: runs of every arm.
        learning_rate: of Adam.
        chunk: steps between evaluations.
        model: section of `attnreg.icl.models.ModelConfig`.
        evaluation: numbers of documents: tune, curve, final, fit, shift; block evaluated at a time; seed.
        shifts: axis → values for the analysis "shifts".
        analyses: of `experiments/icl/analyses.py`.
        chart: label of the arms' x, or "" for no summary figure.
        rows: "", "diabetes" or "activations".
        smoke: tiny evaluation sizes.

    Raises: KeyError for a field that a section does not have, or lacks.
    """
    given = {"task": task, "model": model or {}, "train": train, "evaluation": evaluation or {}}
    sections = {name: _merge(name, given[name]) for name in _SECTIONS}
    if smoke:
        sections["evaluation"] |= _SMOKE_EVALUATION
    return ConfigDict(
        dict(
            experiment="icl.train",
            seed=0,
            precision="float32",
            seeds=seeds,
            learning_rate=learning_rate,
            chunk=chunk,
            rows=rows,
            **sections,
            arms=arms,
            shifts=shifts or {},
            chart=chart,
            analyses=analyses,
        )
    )


def _merge(name: str, given: dict[str, Any]) -> dict[str, Any]:
    needed = _NEEDED.get(name, ())
    known = set(_SECTIONS[name]) | set(needed)
    if unknown := set(given) - known:
        raise KeyError(f"section {name!r} has no field {unknown.pop()!r}; it has {', '.join(sorted(known))}")
    if missing := set(needed) - set(given):
        raise KeyError(f"section {name!r} needs the field {missing.pop()!r}")
    return _SECTIONS[name] | given
