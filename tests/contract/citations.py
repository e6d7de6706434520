"""What a text of this repository points at, and whether it is there: files, tests, modules and names in them.

Read are docstrings and comments of Python files, and whole Markdown files. A citation is a path below attnreg,
experiments, configs, tests or docs; a bare `test_…` (a test module or a test function); or a dotted name that starts
with a package of ours (module, then a name in it, then a member of that class).
"""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.contract.source import ROOT, Function, find, members, names_of

PACKAGES = ("attnreg", "experiments", "configs", "tests")
_PATH = re.compile(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)}|docs|\.ci)/[\w./*-]*")
_TEST = re.compile(r"(?<![\w./])test_\w+")
_DOTTED = re.compile(rf"(?<![\w./])(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


class Citation(NamedTuple):
    """Something a text names, and the line it stands on."""

    line: int
    what: str


def citations(text: str, first_line: int = 1) -> Iterator[Citation]:
    """Everything a text points at."""
    for number, line in enumerate(text.splitlines(), first_line):
        for pattern in (_PATH, _TEST, _DOTTED):
            yield from (Citation(number, found.rstrip(".")) for found in pattern.findall(line))


def spoken(source: str) -> Iterator[tuple[int, str]]:
    """First line and text of every docstring and comment of a Python file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False):
            constant = node.body[0]
            assert isinstance(constant, ast.Expr)
            yield constant.lineno, ast.get_docstring(node, clean=False) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def stale(path: Path) -> list[str]:
    """The citations of a file that point at nothing, as `path:line what`."""
    text = path.read_text(encoding="utf-8")
    parts = spoken(text) if path.suffix == ".py" else [(1, text)]
    found = [citation for line, part in parts for citation in citations(part, line)]
    where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return [f"{where}:{line} {what}" for line, what in sorted(set(found)) if not exists(what)]


def exists(what: str) -> bool:
    """Whether a citation points at something in the repository; `x`, `X`, `mine`, `NAME` and `*` stand for any name."""
    if re.search(r"[/.](x|X|mine|test_x|NAME)(\.py)?$", what):
        return True
    if "/" in what:
        return "*" in what or (ROOT / what).exists()
    if what.startswith("test_"):
        return what.removesuffix(".py") in tests()
    return resolves(what)


@functools.cache
def tests() -> frozenset[str]:
    """The names of all test modules and test functions."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        found.add(path.stem)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.name for node in ast.walk(tree) if isinstance(node, Function)}
    return frozenset(found)


def resolves(dotted: str) -> bool:
    """`attnreg.rows.linear`, `attnreg.rows.linear.linear`, `attnreg.solvers.Newton.run`: as deep as the source says."""
    parts = dotted.split(".")
    for depth in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:depth]), parts[depth:]
        names = names_of(module)
        if names is None:
            continue
        if not rest or (len(parts) == 2 and rest == ["py"]):
            return True
        return rest[0] in names and (len(rest) == 1 or _has_member(module, *rest[:2]))
    return (ROOT.joinpath(*parts)).is_dir()


def _has_member(module: str, name: str, member: str) -> bool:
    definition = find(module, name)
    return definition is None or not isinstance(definition.node, ast.ClassDef) or member in members(definition)
