"""The API reference, made from the packages themselves: the names in `__all__` first, then what else is public.

Nothing is typed by hand and nothing is imported: griffe reads the source, mkdocstrings renders signature and docstring.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
INDEX = "reference/index.md"


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    pages = [INDEX, *({package.path: _uri(package)} for package in _packages(_attnreg()))]
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Write the pages."""
    top = _attnreg()
    files.append(File.generated(config, INDEX, content=_index(top)))
    exported = {_canonical(package, name) for package in _packages(top) for name in package.exports or ()}
    for package in _packages(top):
        files.append(File.generated(config, _uri(package), content=_page(package, exported)))
    return files


def _attnreg() -> Any:
    return griffe.load("attnreg", search_paths=[ROOT])


def _packages(package: Any) -> Iterator[Any]:
    """The packages below one that have public names, each before those inside it."""
    for module in sorted(package.modules.values(), key=lambda module: module.name):
        if module.is_init_module:
            yield module
            yield from _packages(module)


def _uri(package: Any) -> str:
    return f"reference/{package.path}.md"


def _index(top: Any) -> str:
    """The names that `import attnreg` gives, each with its line and its place, and the packages."""
    lines = ["# Reference", "", "## `import attnreg`", "", "| name | what |", "|---|---|"]
    for name in top.exports:
        found = top.modules_collection[_canonical(top, name)]
        lines.append(f"| [`{name}`][{found.canonical_path}] | {_first_line(found)} |")
    lines += ["", "## Packages", "", "| package | what |", "|---|---|"]
    lines += [f"| [`{p.path}`]({p.path}.md) | {_first_line(p)} |" for p in _packages(top)]
    return "\n".join(lines) + "\n"


def _page(package: Any, exported: set[str]) -> str:
    """One package: its docstring, the names of `__all__`, and what no package exports, module by module."""
    shown = {_canonical(package, name): name for name in package.exports or ()}
    parts = [
        f"# `{package.path}`\n",
        _directive(package.path, 2, members=False, show_root_heading=False, show_root_toc_entry=False),
    ]
    if shown:
        parts += ["## Names\n"]
        parts += [_directive(path, 3, heading=name) for path, name in shown.items()]
    modules = [module for module in package.modules.values() if not module.is_init_module]
    rest = {module: _others(module, exported) for module in sorted(modules, key=lambda module: module.name)}
    if any(rest.values()):
        parts += ["## Modules\n"]
    for module, names in rest.items():
        if names:
            parts.append(_directive(module.path, 3, members=sorted(names), heading=module.path))
    return "\n".join(parts)


def _others(module: Any, exported: set[str]) -> list[str]:
    """The public functions and classes that a module defines and no package exports."""
    own = {**module.functions, **module.classes}
    public = [name for name, found in own.items() if not name.startswith("_") and not found.is_alias]
    return [name for name in public if f"{module.path}.{name}" not in exported and own[name].docstring]


def _canonical(package: Any, name: str) -> str:
    """Where a name of `__all__` is defined: `attnreg.fit.solve` is the function `attnreg.fit.solve.solve`."""
    path = package.imports.get(name, f"{package.path}.{name}")
    while True:  # follow what is imported from a package that imports it itself
        holder, _, last = path.rpartition(".")
        further = package.modules_collection[holder].imports.get(last)
        if further is None:
            return path
        path = further


def _directive(path: str, level: int, **options: Any) -> str:
    lines = [f"::: {path}", "    options:", f"      heading_level: {level}"]
    lines += [
        f"      {name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()
    ]
    return "\n".join(lines) + "\n"


def _first_line(found: Any) -> str:
    text = found.docstring.value if found.docstring else ""
    return text.strip().partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
