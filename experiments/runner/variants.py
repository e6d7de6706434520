"""Variants of a config: named sets of overrides, declared beside `get_config` in `VARIANTS`."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

FULL = "full"
Variants = Mapping[str, Mapping[str, Any]]


class VariantError(ValueError):
    """A config has no variant of that name; the message lists those it has."""


def vary(config: ConfigDict, variant: str, variants: Variants) -> ConfigDict:
    """`config` with the overrides of a variant; "full" is the config as it stands.

    Args:
        config: the full config; every overridden field must exist in it.
        variant: "full" or a key of `variants`.
        variants: name → {dotted field: value}; a value that is a dict replaces the whole section.

    Raises:
        VariantError: for an undeclared name. KeyError: for a field that the config does not declare.

    Example:
        >>> vary(ConfigDict({"solver": {"tol": 1e-8}}), "smoke", {"smoke": {"solver.tol": 0.1}}).solver.tol
        0.1
    """
    if variant == FULL:
        return config
    if variant not in variants:
        raise VariantError(f"there is no variant {variant!r}; it has {', '.join((FULL, *variants))}")
    for field, value in variants[variant].items():
        *sections, name = field.split(".")
        node: Any = config
        for section in sections:
            node = node[section]
        if name not in node:
            raise KeyError(f"variant {variant!r} sets {field!r}, which the config does not declare")
        if isinstance(value, Mapping):
            node[name] = ConfigDict(dict(value))
        else:
            node[name] = value
    return config
