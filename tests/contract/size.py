"""How large the repository is: `python -m tests.contract.size [FOLDER ...]`, one line a folder.

Lines are those of .py files, blank ones and comments included; a function is long above 45 lines, decorators and
docstring included, and a file above 250. `--list` names both.
"""

import argparse
import ast
from collections.abc import Iterator
from typing import NamedTuple

from tests.contract import docstrings
from tests.contract.source import Function, Module, modules

FILE_LINES, FUNCTION_LINES = 250, 45
FOLDERS = ("attnreg", "experiments", "configs", "tests")


class Size(NamedTuple):
    """What one folder holds."""

    files: int
    lines: int
    long_files: list[str]
    long_functions: list[str]


def size(folder: str) -> Size:
    """The size of a folder and what is too long in it."""
    found = modules(folder)
    lengths = {module.where: len(module.path.read_text(encoding="utf-8").splitlines()) for module in found}
    long_files = [f"{where} {lines}" for where, lines in lengths.items() if lines > FILE_LINES]
    return Size(len(found), sum(lengths.values()), long_files, [name for m in found for name in long_functions(m)])


def long_functions(module: Module) -> Iterator[str]:
    """Place, name and length of the functions of a module that are too long."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = (node.end_lineno or first) - first + 1
            if lines > FUNCTION_LINES:
                yield f"{module.where}:{node.lineno} {node.name} {lines}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.size", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", default=FOLDERS, help=f"default: {' '.join(FOLDERS)}")
    parser.add_argument("--list", action="store_true", help="name what is too long")
    options = parser.parse_args()
    print(f"{'folder':<14}{'files':>7}{'lines':>8}{f'files > {FILE_LINES}':>13}{f'functions > {FUNCTION_LINES}':>16}")
    for folder in options.folders:
        found = size(folder)
        counts = len(found.long_files), len(found.long_functions)
        print(f"{folder:<14}{found.files:>7}{found.lines:>8}{counts[0]:>13}{counts[1]:>16}")
        for name in (*found.long_files, *found.long_functions) if options.list else ():
            print(f"    {name}")
    functions, annotated, owed, whole = docstrings.totals()
    print(f"public functions fully annotated: {annotated} of {functions}; docstrings complete: {whole} of {owed}")


if __name__ == "__main__":
    main()
