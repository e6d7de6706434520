"""The laboratory of an installed package: `attnreg run --config quickstart`, with the extra `lab`.

In a checkout it is `python -m experiments.run --config configs/quickstart.py`, the same command. A wheel keeps the
packages `experiments` and `configs` inside this one, where they take no name from anybody: only the process of a
command sees them, and those that it starts. A script of your own calls `attnreg.lab.enter()` before it imports them.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# In a wheel; an editable install has the folders where the checkout has them, beside this package.
_SHIPPED = _HERE / "_lab"
HOME = _SHIPPED if _SHIPPED.is_dir() else _HERE.parent
NAMES = ("experiments", "configs")


def enter() -> Path:
    """Let this process import `experiments` and `configs`; the folder that has them.

    Raises:
        ImportError: a module of that name is imported already, and is not ours.
    """
    for name in NAMES:
        module = sys.modules.get(name)
        where = getattr(module, "__file__", None)
        if module is not None and (where is None or Path(where).resolve().parent != HOME / name):
            raise ImportError(f"{where or name} is imported as {name!r}; use the laboratory in a process of its own")
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return HOME


def commands() -> list[str]:
    """The names of the commands: the modules and packages of `experiments` that can be run."""
    folder = HOME / NAMES[0]
    modules = (path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8"))
    return sorted((*modules, *(path.parent.name for path in folder.glob("*/__main__.py"))))


def named(argument: str) -> str:
    """A config by its name, `quickstart:smoke`, as the path of its file; anything else as it is."""
    name, colon, variant = argument.partition(":")
    path = HOME / NAMES[1] / f"{name}.py"
    return f"{path}{colon}{variant}" if name.isidentifier() and path.is_file() and not Path(name).exists() else argument


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit code."""
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command not in commands():
        print(f"no command {command!r}; there are {', '.join(commands())}", file=sys.stderr)
        return 2
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            arguments[i] = "--config=" + named(argument.removeprefix("--config="))
        elif i and arguments[i - 1] == "--config":
            arguments[i] = named(argument)
    # For the processes that a sweep starts: the laboratory comes first, and no folder of the same name where they are.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(enter()), os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.argv[1:] = arguments
    try:
        runpy.run_module(f"{NAMES[0]}.{command}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if "attnreg[lab]" not in str(error):
            raise
        print(error, file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    configs = sorted(
        path.stem for path in (HOME / NAMES[1]).glob("*.py") if "def get_config" in path.read_text("utf-8")
    )
    return "\n".join(
        [
            "usage: attnreg COMMAND --config NAME[:VARIANT] [...]; attnreg COMMAND --help says more",
            f"commands: {', '.join(commands())}",
            f"configs: {', '.join(configs)}, or a file of your own",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
