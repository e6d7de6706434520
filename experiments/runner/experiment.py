"""An experiment by name: its module, and what the module says that it can do."""

import importlib
import types

from experiments.runner.config import UsageError


def experiment_module(name: str) -> types.ModuleType:
    """The module `experiments.<name>`; UsageError when it is absent or has neither `run` nor `run_batch`."""
    full = f"experiments.{name}"
    path = f"{full.replace('.', '/')}.py"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not f"{full}.".startswith(f"{error.name}."):
            needs = f"experiment {name!r} needs the package {error.name!r}, which is not installed"
            raise UsageError(f"{needs}: pip install {error.name}") from error
        raise UsageError(f"config.experiment is {name!r}, but there is no {path}") from error
    if not batched(module) and not callable(getattr(module, "run", None)):
        raise UsageError(f"{path} has no run(config, record), and no BATCHED with run_batch(configs, records)")
    return module


def batched(module: types.ModuleType) -> bool:
    """Whether an experiment runs many configs as one program: it has `run_batch` and names the fields, `BATCHED`."""
    return callable(getattr(module, "run_batch", None)) and hasattr(module, "BATCHED")


def shared(module: types.ModuleType) -> str:
    """What the processes of a run share of an experiment's work, in words: its `SHARED`; "" when it cannot."""
    return getattr(module, "SHARED", "")
