"""Who may import whom: the one table, which CONTRIBUTING.md shows and test_layering.py enforces.

    python -m tests.contract.layers

prints it as Markdown. A layer is a package or a module; a module belongs to the longest name that it starts with, may
import its own layer and what is listed (a name stands for everything below it), and nothing else of this repository.
"""

import itertools
import sys
from typing import NamedTuple


class Layer(NamedTuple):
    """What a layer may import of this repository and from other projects, and what it is."""

    name: str
    ours: tuple[str, ...]
    others: tuple[str, ...]
    what: str


_ARRAYS = ("jax", "numpy")
_BELOW = tuple(f"attnreg.{name}" for name in ("rows", "problems", "lift", "objectives", "solvers"))
_CHECKS = ("attnreg.problems.checks", "attnreg.problems.reprs")
_SUBJECTS = "experiments of one subject each; none imports another"
_SUBJECT = ("attnreg", "experiments.runner", "experiments.benchmarks.timing")
ANY = ("*",)

LAYERS = (
    Layer("attnreg.rows", (), _ARRAYS, "functions of one row of logits: value, gradient, curvature"),
    Layer("attnreg.problems", (), _ARRAYS, "the data, the losses written out, checks of data and options"),
    Layer("attnreg.problems.registry", _BELOW[:2], _ARRAYS, "the table of losses: row functions and definitions"),
    Layer("attnreg.lift", _BELOW[:2], _ARRAYS, "from rows to the unknown matrix"),
    Layer("attnreg.objectives", _BELOW[:3], _ARRAYS, "value, gradient, Hessian and its products, in closed form"),
    Layer(
        "attnreg.solvers",
        ("attnreg.lift.precision", "attnreg.lift.triangular", "attnreg.objectives.base", *_CHECKS),
        (*_ARRAYS, "optax"),
        "one algorithm a file; they see the interface of objectives, and no loss or problem by name",
    ),
    Layer("attnreg.fit", (*_BELOW, "attnreg.parallel"), (*_ARRAYS, "optax", "scipy", "matplotlib"), "what users call"),
    Layer(
        "attnreg.fit.estimator",
        ("attnreg.problems", "attnreg.fit"),
        (*_ARRAYS, "sklearn"),
        "`fit_layer` as scikit-learn's tools call it; scikit-learn itself is optional",
    ),
    Layer("attnreg.parallel", _BELOW[1:4], _ARRAYS, "one fit over many devices"),
    Layer("attnreg.bounds", ("attnreg.problems",), _ARRAYS, "constants, without the closed forms that they bound"),
    Layer("attnreg.data", ("attnreg.problems", "attnreg.lift.tensor_trick"), _ARRAYS, "synthetic and real instances"),
    Layer(
        "attnreg.data.models",
        ("attnreg.problems", "attnreg.lift.tensor_trick", "attnreg.data"),
        _ARRAYS,
        "transformers from their files; optional packages only by name, through `attnreg.data.models.extras`",
    ),
    Layer("attnreg.data.tools", ("attnreg.data", "attnreg.problems.checks"), _ARRAYS, "the commands that make data"),
    Layer(
        "attnreg.icl",
        (*_BELOW[:2], "attnreg.lift.tensor_trick", "attnreg.lift.triangular"),
        (*_ARRAYS, "optax"),
        "learning in context",
    ),
    Layer(
        "attnreg",
        ("attnreg.problems", "attnreg.objectives", "attnreg.solvers", "attnreg.fit"),
        (),
        "the names of the first example",
    ),
    Layer("attnreg.lab", (), (), "the commands of the laboratory in an installed package; runs them by name"),
    Layer("experiments.runner", ("attnreg.problems.checks",), ANY, "records, configs, processes; no experiment"),
    *(
        Layer(f"experiments.{name}", _SUBJECT, ANY, _SUBJECTS)
        for name in ("fit", "icl", "bounds", "benchmarks", "compress", "survey")
    ),
    *(
        Layer(f"experiments.{name}", (*_SUBJECT[:2], "experiments.benchmarks"), ANY, "beside peers of the benchmarks")
        for name in ("one_layer", "recover")
    ),
    *(
        Layer(f"experiments.{name}", ("experiments.runner",), ANY, "the commands, and an experiment to try them on")
        for name in ("run", "sweep", "collect", "list", "show", "compare", "selfcheck")
    ),
    Layer("experiments.report", ("experiments.runner", "experiments.compare"), ANY, "the page of a run or a sweep"),
    Layer(
        "experiments.claims",
        ("experiments.runner", "experiments.run"),
        ANY,
        "numbers of finished runs, and the pages written from them",
    ),
    Layer(
        "experiments.papers",
        ("attnreg.bounds", "attnreg.icl", "experiments.claims", "experiments.runner", "experiments.run"),
        ANY,
        "the papers' statements, a row each, and the page of them",
    ),
    Layer("experiments", (), ANY, "what must be installed, and threads of the linear algebra"),
    Layer(
        "configs",
        ("attnreg", "experiments.runner.variants", "experiments.runner.tasks", "experiments.icl.arms"),
        ("ml_collections",),
        "what a run is asked to do",
    ),
)


def layer_of(module: str) -> Layer | None:
    """The layer with the longest name that a module's name starts with; a package as a whole takes no submodule in."""
    found = [layer for layer in LAYERS if f"{module}.".startswith(f"{layer.name}.")]
    best = max(found, key=lambda layer: len(layer.name), default=None)
    return None if best is not None and best.name in ("attnreg", "experiments") and module != best.name else best


def forbidden(module: str, imported: set[str]) -> set[str]:
    """The imported names that the layer of a module does not allow."""
    layer = layer_of(module)
    if layer is None:
        return imported
    own = () if layer.name in ("attnreg", "experiments") else (layer.name,)
    allowed = (*own, *layer.ours, *layer.others)
    if "*" in allowed:
        theirs = {name.split(".")[0] for name in imported} - {"attnreg", "experiments", "configs", "tests"}
        allowed = (*allowed, *theirs)
    allowed = (*allowed, *sys.stdlib_module_names)
    return {name for name in imported if not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)}


def markdown() -> str:
    """The table as CONTRIBUTING.md shows it; layers that are alike share a row."""
    lines = ["| layer | what it is | of ours it may import | of others |", "|---|---|---|---|"]
    for what, alike in itertools.groupby(LAYERS, key=lambda layer: layer.what):
        layers = list(alike)
        names = ", ".join(f"`{layer.name}`" for layer in layers)
        ours = ", ".join(f"`{name}`" for name in layers[0].ours) or "–"
        others = "anything" if layers[0].others == ANY else ", ".join(layers[0].others) or "–"
        lines.append(f"| {names} | {what} | {ours} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
