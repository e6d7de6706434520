"""Who may import whom: the one table, which CONTRIBUTING.md shows and test_layering.py enforces.

    python -m tests.contract.layers

prints it as Markdown. A layer is a package or a module; a module belongs to the longest name that it starts with, may
import its own layer and what is listed (a name stands for everything below it), and nothing else of this repository.
"""

import sys
from typing import NamedTuple


class Layer(NamedTuple):
    """What a layer may import of this repository and from other projects, and what it is."""

    name: str
    ours: tuple[str, ...]
    others: tuple[str, ...]
    what: str


_ARRAYS = ("jax", "numpy")
_BELOW = tuple(f"attnreg.{name}" for name in ("problems", "rows", "lift", "objectives", "solvers"))
_SUBJECT = ("attnreg", "experiments.runner", "experiments.benchmarks.timing")
ANY = ("*",)

LAYERS = (
    Layer("attnreg.rows", (), _ARRAYS, "row functions of the logits: value, gradient, curvature; one per loss"),
    Layer("attnreg.problems", (), _ARRAYS, "the data, checks of data and options, the losses written out"),
    Layer("attnreg.lift", ("attnreg.rows", "attnreg.problems"), _ARRAYS, "from rows to the unknown matrix"),
    Layer("attnreg.objectives", _BELOW[:3], _ARRAYS, "value, gradient, Hessian and its products, in closed form"),
    Layer(
        "attnreg.solvers",
        ("attnreg.objectives.base", "attnreg.problems.checks"),
        (*_ARRAYS, "optax"),
        "one algorithm per file; sees the interface of objectives, no loss and no problem by name",
    ),
    Layer("attnreg.fit", _BELOW, _ARRAYS, "what users call"),
    Layer("attnreg.parallel", (*_BELOW[:1], *_BELOW[2:4]), _ARRAYS, "a fit over many devices"),
    Layer("attnreg.bounds", ("attnreg.problems",), _ARRAYS, "constants; never the closed forms that they bound"),
    Layer("attnreg.data", ("attnreg.problems", "attnreg.lift.tensor_trick"), _ARRAYS, "synthetic and real instances"),
    Layer("attnreg.data.tools", ("attnreg.data",), _ARRAYS, "commands that make data"),
    Layer("attnreg.icl", _BELOW, (*_ARRAYS, "optax"), "the laboratory of in-context learning"),
    Layer("attnreg", ("attnreg.fit", *_BELOW), (), "the names of the first example"),
    Layer("experiments.runner", (), ANY, "plumbing; imports no experiment and nothing of attnreg"),
    *(
        Layer(f"experiments.{name}", _SUBJECT, ANY, f"experiments: {what}")
        for name, what in (
            ("fit", "a map"),
            ("one_layer", "a whole layer"),
            ("icl", "learning in context"),
            ("bounds", "constants and shifts, measured"),
            ("benchmarks", "against other libraries"),
        )
    ),
    *(
        Layer(f"experiments.{name}", ours, ANY, what)
        for name, ours, what in (
            ("run", ("experiments.runner",), "the command of one run"),
            ("sweep", ("experiments.runner", "experiments.run"), "the command of many"),
            ("collect", ("experiments.runner",), "the command that makes one table of a sweep"),
            ("report", ("experiments.runner", "experiments.collect"), "the command that prints it"),
            ("selfcheck", ("experiments.runner",), "the experiment that tests the runner"),
        )
    ),
    Layer("experiments", (), ANY, "threads of the linear algebra, set before it is loaded"),
    Layer("configs", ("attnreg", "experiments.runner.variants"), ("ml_collections",), "what a run is asked to do"),
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
    """The table as CONTRIBUTING.md shows it."""
    lines = ["| layer | what it is | may import of ours | of others |", "|---|---|---|---|"]
    for layer in LAYERS:
        ours = ", ".join(f"`{name.removeprefix('attnreg.')}`" for name in layer.ours) or "–"
        others = "anything" if layer.others == ANY else ", ".join(layer.others) or "–"
        lines.append(f"| `{layer.name}` | {layer.what} | {ours} | {others} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
