"""The source of the packages as syntax trees: what the contract tests read. Nothing is imported.

A *public function* is a function at the top of a module, or a method of a class at the top of a module, whose name
(and whose class's name) has no leading underscore; `__init__` and `__call__` count as public methods.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef
PUBLIC_DUNDERS = ("__init__", "__call__")


class Module(NamedTuple):
    """One file: its path, its dotted name, the name of its package as the tables show it, and its tree."""

    path: Path
    name: str
    package: str
    tree: ast.Module

    @property
    def where(self) -> str:
        """The path below the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_package(self) -> bool:
        """True for an `__init__.py`."""
        return self.path.stem == "__init__"


@functools.cache
def module_at(path: Path) -> Module:
    """One file, read once."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return Module(path, ".".join(parts), _package(parts, path), ast.parse(path.read_text(encoding="utf-8")))


def modules(folder: str) -> list[Module]:
    """Every module below a top-level folder, by path."""
    return [module_at(path) for path in sorted((ROOT / folder).rglob("*.py"))]


def _package(parts: Sequence[str], path: Path) -> str:
    """`attnreg.rows` for attnreg/rows/linear.py, `attnreg` for its own files, `experiments` for commands."""
    depth = 2 if parts[0] == "attnreg" or len(parts) > 2 or (len(parts) == 2 and path.stem == "__init__") else 1
    return ".".join(parts[:depth]) if parts[0] in ("attnreg", "experiments") else parts[0]


class Definition(NamedTuple):
    """A function or class at the top of a module, or a method; `qualified` is `Class.method` for a method."""

    module: Module
    node: Function | ast.ClassDef
    qualified: str

    @property
    def where(self) -> str:
        """File, line and name, as an editor understands them."""
        return f"{self.module.where}:{self.node.lineno} {self.qualified}"

    @property
    def docstring(self) -> str:
        """The docstring, "" without one."""
        return ast.get_docstring(self.node) or ""


def definitions(module: Module) -> Iterator[Definition]:
    """The public functions and classes at the top of a module."""
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield Definition(module, node, node.name)


def public_functions(module: Module) -> Iterator[Definition]:
    """The public functions of a module, methods included."""
    for found in definitions(module):
        if isinstance(found.node, ast.ClassDef):
            for node in found.node.body:
                if isinstance(node, Function) and (node.name in PUBLIC_DUNDERS or not node.name.startswith("_")):
                    yield Definition(module, node, f"{found.qualified}.{node.name}")
        else:
            yield found


def parameters(node: Function, *, method: bool = False) -> list[ast.arg]:
    """All parameters in order; a method's `self` or `cls` is left out."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if method and not any(_named(decorator) == "staticmethod" for decorator in node.decorator_list):
        positional = positional[1:]
    rest = [arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [*positional, *(argument for argument in rest if argument is not None)]


def arguments_of(found: Definition) -> dict[str, ast.expr | None]:
    """Name and annotation of what a caller gives: parameters of a function, of `__init__`, or the fields of a class."""
    node = found.node
    if isinstance(node, Function):
        return {a.arg: a.annotation for a in parameters(node)}
    inits = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if inits:
        return {a.arg: a.annotation for a in parameters(inits[0], method=True)}
    if bases(node) & {"ABC", "Protocol"}:
        return {}
    return {
        inner.target.id: inner.annotation
        for inner in node.body
        if isinstance(inner, ast.AnnAssign)
        and isinstance(inner.target, ast.Name)
        and not inner.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(inner.annotation)
    }


def decorators(node: Function | ast.ClassDef) -> set[str]:
    """The names of the decorators, called or not, without what stands before a dot."""
    return {_named(decorator) for decorator in node.decorator_list}


def bases(node: ast.ClassDef) -> set[str]:
    """The names of the base classes, without what stands before a dot."""
    return {_named(base) for base in node.bases}


def _named(node: ast.expr) -> str:
    if isinstance(node, ast.Call | ast.Subscript):
        return _named(node.func if isinstance(node, ast.Call) else node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def exported(package: str) -> list[str]:
    """The names in `__all__` of a package."""
    for node in module_at(_file(package)).tree.body:
        if isinstance(node, ast.Assign) and any(_named(target) == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def find(dotted: str, name: str) -> Definition | None:
    """The definition behind a name of a module, imports followed; None for a constant.

    Raises:
        LookupError: the module has no such name.
    """
    module = module_at(_file(dotted))
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef) and node.name == name:
            return Definition(module, node, name)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(node.module or "", alias.name)
        if name in _assigned(node):
            return None
    raise LookupError(f"{dotted} has no {name}")


def _assigned(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    if isinstance(node, ast.If | ast.Try):
        return set().union(*(_assigned(inner) for inner in node.body), set())
    return set()


def names_of(dotted: str) -> set[str] | None:
    """Every name at the top of a module, its submodules included; None where there is no such module."""
    try:
        module = module_at(_file(dotted))
    except FileNotFoundError:
        return None
    found: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        found |= _assigned(node)
    if module.is_package:
        found |= {path.stem for path in module.path.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    return found


def members(found: Definition) -> set[str]:
    """The names of a class: methods, fields, attributes set on self, and those of its bases in this repository."""
    node = found.node
    names = {inner.name for inner in node.body if isinstance(inner, Function)}
    names |= set().union(*(_assigned(inner) for inner in node.body), set())
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _named(inner.value) == "self":
            names.add(inner.attr)
    for base in bases(node) if isinstance(node, ast.ClassDef) else ():
        try:
            parent = find(found.module.name, base)
        except (LookupError, FileNotFoundError):
            continue
        names |= members(parent) if parent else set()
    return names


def _file(dotted: str) -> Path:
    path = ROOT.joinpath(*dotted.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(dotted)
