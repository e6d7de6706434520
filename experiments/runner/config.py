"""From `configs/x.py:variant` and `--config.a.b=value` flags to one checked, locked config."""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import io
import math
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.runner.variants import FULL

PRECISIONS = ("float32", "float64")
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)")


class UsageError(ValueError):
    """The command line or a field of the config is wrong; the message is all the user needs (exit code 2, one line).

    Experiments raise it for the fields that they refuse.
    """


class Resolved(NamedTuple):
    """A config with its overrides applied, and where it came from."""

    config: Any  # a locked ConfigDict; Any, since its field types are known to no checker
    path: Path
    variant: str
    overrides: tuple[str, ...]
    expected: Mapping[str, tuple[float | None, float | None]] = types.MappingProxyType({})  # of metrics, by name

    @property
    def name(self) -> str:
        """The config's file name without suffix, with the variant when it is not "full"."""
        return self.path.stem if self.variant == FULL else f"{self.path.stem}-{self.variant}"

    @property
    def spec(self) -> str:
        """What `--config` takes to load this again."""
        return f"{self.path}:{self.variant}"


class Run(NamedTuple):
    """A resolved config and the folder that it runs in."""

    resolved: Resolved
    workdir: Path


def load_module(path: Path) -> types.ModuleType:
    """Execute a config file as a module; UsageError when it is missing or does not import."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        raise UsageError(f"no config file {path}" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    spec = importlib.util.spec_from_file_location(f"attnreg_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"config file {path} does not import: {_one_line(error)}") from error
    if not callable(getattr(module, "get_config", None)):
        raise UsageError(f'{path} has no get_config(variant="full")')
    return module


def split_spec(spec: str) -> tuple[Path, str]:
    """`configs/x.py:smoke` as (path, variant)."""
    path, colon, variant = spec.partition(":")
    if colon and not variant:
        raise UsageError(f"--config {spec}: nothing after the colon; leave it out for the full variant")
    return Path(path), variant or FULL


def declared_variants(module: types.ModuleType, path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The module's VARIANTS: name to overrides; UsageError when it declares none."""
    found = getattr(module, "VARIANTS", None)
    if not isinstance(found, Mapping) or not all(isinstance(entry, Mapping) for entry in found.values()):
        raise UsageError(f"{path} has no VARIANTS, a dict of overrides for each variant (it may be empty)")
    return found


def resolve(spec: str, overrides: Sequence[str] = ()) -> Resolved:
    """Load a config, apply the `--config.a.b=value` flags and check the fields that every config has."""
    path, variant = split_spec(spec)
    module = load_module(path)
    known = (FULL, *declared_variants(module, path))
    if variant not in known:
        near = difflib.get_close_matches(variant, known, n=1)
        hint = f"; did you mean :{near[0]}?" if near else ""
        raise UsageError(f"{path} has no variant {variant!r}; it has {', '.join(known)}{hint}")
    if "variant" not in inspect.signature(module.get_config).parameters:
        raise UsageError(f'{path}: get_config must take variant="full"')
    try:
        config = module.get_config(variant)
    except Exception as error:
        raise UsageError(f"{path}: get_config({variant!r}) failed: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"{path}: get_config returned a {type(config).__name__}, not a ConfigDict")
    config = _override(config.lock(), tuple(overrides)).copy_and_resolve_references()
    _check(config, path)
    return Resolved(config.lock(), path, variant, tuple(overrides), _expected(module, path, variant, overrides))


def _expected(module: types.ModuleType, path: Path, variant: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """What the config expects of a variant: `EXPECTED`, variant to metric to (from, to); nothing once a field differs.

    Another seed is the same question.
    """
    found = getattr(module, "EXPECTED", {})
    ranges = [limits for of in found.values() for limits in of.values()] if _nested(found) else [None]
    if not all(isinstance(limits, tuple) and len(limits) == 2 for limits in ranges):
        raise UsageError(f"{path}: EXPECTED must be a dict of variants, each of metrics with (from, to), None for open")
    changed = [match[2] for flag in overrides if (match := _OVERRIDE.match(flag)) and match[2] != "seed"]
    return {} if changed else dict(found.get(variant, {}))


def _nested(found: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(entry, Mapping) for entry in found.values())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _override(config: Any, arguments: tuple[str, ...]) -> Any:
    known = field_paths(config)
    for argument in arguments:
        match = _OVERRIDE.match(argument)
        if match and match[2] not in known:
            near = difflib.get_close_matches(match[2], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise UsageError(f"the config has no field {match[2]!r}; {hint}")
    values = flags.FlagValues()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["run", *arguments])
            leftover = values(["run", *arguments])[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    _check_tuples(values["config"].value, arguments)
    if leftover:
        raise UsageError(
            f"leftover argument {leftover[0]!r}; values are written --config.field=value, also for booleans"
        )
    return values["config"].value


def _check_tuples(config: Any, arguments: tuple[str, ...]) -> None:
    """Refuse a tuple that was not read as one: what is no literal would become a tuple of one string."""
    for argument in arguments:
        match, text = _OVERRIDE.match(argument), argument.partition("=")[2].strip()
        if match and text[:1] in ("(", "["):
            found = functools.reduce(lambda node, name: node[name], match[2].split("."), config)
            if isinstance(found, tuple) and len(found) == 1 and found[0] == text:
                raise UsageError(
                    f"config.{match[2]} is {text}; a tuple has numbers, booleans and quoted strings (1e999 is infinity)"
                )


def field_paths(config: Any, prefix: str = "") -> list[str]:
    """Every field of a config, dotted, inner nodes included."""
    found: list[str] = []
    for name, value in config.items():
        found.append(prefix + name)
        if isinstance(value, ConfigDict):
            found += field_paths(value, f"{prefix}{name}.")
    return found


def _check(config: Any, path: Path) -> None:
    for name in ("experiment", "seed", "precision"):
        if name not in config:
            raise UsageError(
                f"{path}: the config has no field {name!r}; every config has experiment, seed and precision"
            )
    if config.precision not in PRECISIONS:
        raise UsageError(f"config.precision is {config.precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise UsageError(f"config.seed is {config.seed!r}; it must be an integer")
    if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", str(config.experiment)):
        raise UsageError(f"config.experiment is {config.experiment!r}; it must name a module of experiments/")


def plain(value: Any) -> Any:
    """A value of a sweep with NumPy's numbers as Python's, also inside a tuple or a list."""
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def as_flags(overrides: Mapping[str, Any]) -> list[str]:
    """A dict of overrides as the flags a user would type, so that every sweep task can be rerun by hand."""
    return [f"--config.{name}={_text(name, plain(value))}" for name, value in overrides.items()]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple) and all(v is None or isinstance(v, bool | int | float | str) for v in value):
        entries = ", ".join(_literal(name, v) for v in value)
        return f"({entries},)" if len(value) == 1 else f"({entries})"
    raise UsageError(f"a sweep override must be a number, boolean, string or a tuple of them, but {name} is {value!r}")


def _literal(name: str, value: Any) -> str:
    """One entry of a tuple, as Python reads it without evaluating: infinity has a literal (1e999), NaN has none."""
    if isinstance(value, float) and math.isnan(value):
        raise UsageError(f"{name} has NaN in a tuple, which a flag cannot say; leave it out, or use a field of its own")
    return repr(value).replace("inf", "1e999") if isinstance(value, float) else repr(value)
