"""The optional packages: imported when they are needed, and asked for by name where they are absent."""

import importlib
from types import ModuleType

from attnreg.problems.checks import ProblemError


def extra(name: str) -> ModuleType:
    """An optional package.

    Raises:
        ProblemError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProblemError(
            f"models need the package {name!r}, which is not installed: pip install 'attnreg[models]'"
        ) from error
