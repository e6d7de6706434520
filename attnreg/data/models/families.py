"""The table of families: how each reads its numbers and its weights. A new family is one file and one row here."""

from collections.abc import Callable
from typing import NamedTuple

from attnreg.data.models import bert, gpt2, llama
from attnreg.data.models.config import ModelConfig
from attnreg.data.models.parameters import Model, Parameters
from attnreg.data.models.reading import Options, Tensors
from attnreg.problems.checks import ProblemError


class Family(NamedTuple):
    """One family of transformers.

    `types` are the values of `model_type` in a config.json; `config` reads the numbers, `parameters` the weights.
    """

    name: str
    types: tuple[str, ...]
    config: Callable[[Options], ModelConfig]
    parameters: Callable[[ModelConfig, Options, Tensors], Parameters]


FAMILIES = [
    Family("bert", ("bert",), bert.config, bert.parameters),
    Family("gpt2", ("gpt2",), gpt2.config, gpt2.parameters),
    Family("llama", ("llama", "mistral", "qwen2"), llama.config, llama.parameters),
]


def register_family(family: Family) -> None:
    """Add a family of your own; a type that another has is refused.

    Raises:
        ProblemError: one of its types is taken.
    """
    taken = {kind: other.name for other in FAMILIES for kind in other.types}
    for kind in family.types:
        if kind in taken:
            raise ProblemError(f"model_type {kind!r} belongs to the family {taken[kind]!r}; give yours another name")
    FAMILIES.append(family)


def family_of(options: Options) -> Family:
    """The family of a config.json.

    Raises:
        ProblemError: it has no `model_type`, or none that is known; the message lists those that are.
    """
    kind = options.get("model_type")
    known = {kind: family for family in FAMILIES for kind in family.types}
    if kind not in known:
        raise ProblemError(
            f"model_type in {options.where} is {kind!r}; supported are {', '.join(sorted(known))}. A new family is one "
            f"file: attnreg.data.models.register_family"
        )
    return known[kind]


def build(options: Options, tensors: Tensors) -> Model:
    """The model of a config.json and its tensors.

    Raises:
        ProblemError: an architecture or an option that is not supported, or tensors that are missing, of another
            shape, or unknown.
    """
    family = family_of(options)
    for name in ("quantization_config", "attn_logit_softcapping", "final_logit_softcapping", "per_layer_config"):
        options.only(name, None)
    config = family.config(options)
    return Model(config, family.parameters(config, options, tensors))
