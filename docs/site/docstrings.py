"""Turns our docstrings (CONTRIBUTING.md, "Docstrings") into Markdown, and shows the constructors of our pytrees.

Readers of the source see `Args: A: (n, d) queries. B: (n, m) targets.` on one line where it fits; a page wants a list.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

import griffe

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Precision", "Cost", "Source", "Example")
_HEAD = re.compile(rf"^({'|'.join(SECTIONS)}):(?:\s+|$)(.*)$")


class Docstrings(griffe.Extension):
    """Called by griffe for everything that it reads."""

    def on_package(self, *, pkg: griffe.Module, **rest: Any) -> None:
        """Rewrite every docstring of a package, once all of it is read."""
        for found in _inside(pkg):
            if found.docstring is not None:
                found.docstring.value = markdown(found.docstring.value, _names(found))

    def on_class(self, *, cls: griffe.Class, **rest: Any) -> None:
        """Give a `pytree_dataclass` the decorator that griffe knows, so that its fields become a constructor."""
        for decorator in cls.decorators:
            if decorator.callable_path.endswith(".pytree_dataclass"):
                decorator.value = griffe.ExprName("dataclasses.dataclass")


def _inside(found: Any) -> Iterator[Any]:
    yield found
    for member in found.members.values():
        if not member.is_alias:
            yield from _inside(member)


def markdown(text: str, names: Collection[str]) -> str:
    """A docstring as Markdown: arguments as a list, other sections with a bold head, examples as code."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        for head, body in _sections(block.split("\n")):
            if head in ("Args", "Attributes"):
                parts += [f"**{head}**", "\n".join(_items(body, names))]
            elif head:
                parts.append(
                    f"**{head}:** " + " ".join(line.strip() for line in body) if head != "Example" else _code(body)
                )
            else:
                parts.append(_code(body) if body[0].lstrip().startswith(">>>") else "\n".join(body))
    return "\n\n".join(parts)


def _sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """The lines of a block, cut where a section begins; "" is the head of what stands before."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        match = _HEAD.match(line)
        if match:
            found.append((match[1], [match[2]] if match[2] else []))
        elif found:
            found[-1][1].append(line)
        else:
            found.append(("", [line]))
    return [(head, body) for head, body in found if body]


def _items(body: list[str], names: Collection[str]) -> list[str]:
    """One entry of the list for each `name: ` or `name, name: ` of an Args section that names arguments."""
    text = " ".join(line.strip() for line in body)
    starts = [
        match
        for match in re.finditer(r"(?:^|(?<=[.)] ))(\*{0,2}\w+(?:, \w+)*): ", text)
        if all(name.strip("* ") in names for name in match[1].split(","))
    ]
    if not starts:
        return [text]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    before = text[: starts[0].start()].strip()
    return ([before] if before else []) + [
        f"* {', '.join(f'`{name.strip()}`' for name in start[1].split(','))}: {text[start.end() : end].strip()}"
        for start, end in zip(starts, ends, strict=True)
    ]


def _code(body: list[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    return "```python\n" + "\n".join(line[indent:] for line in body) + "\n```"


def _names(obj: Any) -> set[str]:
    """What an Args or Attributes section of an object may name."""
    if obj.is_function:
        return {parameter.name.strip("*") for parameter in obj.parameters}
    if obj.is_class:
        init = obj.members.get("__init__")
        return set(obj.members) | (
            {p.name for p in init.parameters} if init is not None and init.is_function else set()
        )
    return set()
