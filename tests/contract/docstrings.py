"""What a docstring owes (CONTRIBUTING.md, "Docstrings"), and the table of who has paid.

    python -m tests.contract.docstrings [--list]

Level A, the names in `__all__` of the packages in `LEVEL_A`; level B, the public functions and classes of those in
`LEVEL_B`; level C, everything else that is public. Each rule below says what it reads.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.contract.source import (
    Definition,
    Function,
    arguments_of,
    bases,
    decorators,
    definitions,
    exported,
    find,
    modules,
    parameters,
    public_functions,
)

LEVEL_A = tuple(f"attnreg{name}" for name in ("", ".problems", ".rows", ".objectives", ".solvers", ".fit"))
LEVEL_B = tuple(f"attnreg.{name}" for name in ("lift", "bounds", "icl", "parallel", "data"))
FOLDERS = ("attnreg", "experiments", "configs")
# What get_config and sweep do is the contract of every config; the docstring of the file says the rest.
CONTRACT_OF_CONFIGS = ("get_config", "sweep")

_DIM = r"(?:…|\.\.\.|[\w·*+/−-]+(?: [·*+/−-] [\w·*+/−-]+)*)"
SHAPE = rf"\({_DIM},\)|\({_DIM}(?:, {_DIM})+\)|\bscalars?\b|\bshaped like\b|\b(?:the|same|any) shape\b|\bof shapes?\b"
DTYPE = r"dtype|float|boolean|integer|int32|complex|precision"
SECTIONS = ("Args", "Attributes", "Returns", "Precision", "Cost", "Raises", "Source", "Example", "Yields")
LOOPS = {"while_loop", "fori_loop", "scan", "eigh", "eigvalsh", "svd", "qr", "cholesky", "solve", "inv", "lstsq"}
RECORDS = {"NamedTuple", "Protocol", "ABC", "IntEnum", "Enum", "StrEnum", "TypedDict", "Exception", "ValueError"}
NO_NUMBERS = {"str", "tuple", "None", "Solver", "bool"}


class Debt(NamedTuple):
    """One thing that a definition owes."""

    definition: Definition
    reason: str

    def __str__(self) -> str:
        return f"{self.definition.where}: {self.reason}"


def levels() -> Iterator[tuple[str, Definition]]:
    """Every public function and class at the top of a module with its level, once."""
    named = (find(package, name) for package in LEVEL_A for name in exported(package))
    top = {(found.module.name, found.qualified) for found in named if found is not None}
    for folder in FOLDERS:
        for module in modules(folder):
            for found in definitions(module):
                if folder == "configs" and found.qualified in CONTRACT_OF_CONFIGS:
                    continue
                level = "B" if module.package in LEVEL_B else "C"
                yield "A" if (module.name, found.qualified) in top else level, found


def annotation_debts(folder: str) -> Iterator[Debt]:
    """Public functions of a folder whose parameters or result have no annotation."""
    for module in modules(folder):
        for found in public_functions(module):
            assert isinstance(found.node, Function)
            bare = [a.arg for a in parameters(found.node, method="." in found.qualified) if a.annotation is None]
            if found.node.returns is None and found.node.name != "__init__":
                bare.append("the result")
            if bare:
                yield Debt(found, f"no annotation of {', '.join(bare)}")


def docstring_debts() -> Iterator[tuple[str, Debt]]:
    """Level and debt of every docstring that owes something."""
    rules = {"A": (one_line, full), "B": (one_line, shapes, cost), "C": (one_line,)}
    for level, found in levels():
        for rule in rules[level]:
            for reason in rule(found):
                yield level, Debt(found, f"level {level}: {reason}")


def one_line(found: Definition) -> Iterator[str]:
    """The first line is a sentence of its own: it ends with a full stop or a colon."""
    first = found.docstring.partition("\n")[0].strip()
    if not first:
        yield "no docstring"
    elif not first.endswith((".", ":")):
        yield "the first line is not a sentence"


def full(found: Definition) -> Iterator[str]:
    """Args (every argument, shapes and a dtype of arrays), Returns, Raises; Precision, Cost, Source if numerical."""
    has = sections(found.docstring)
    inputs = arguments_of(found)
    described = has.get("Args", "") + has.get("Attributes", "")
    if inputs and not described:
        yield "no Args"
    elif inputs:
        missing = [name for name in inputs if not re.search(rf"\b{re.escape(name)}\b", described)]
        if missing:
            yield f"Args do not name {', '.join(missing)}"
        arrays = arrays_of(inputs)
        yield from (f"no shape of {name}" for name in arrays if not shaped(name, described))
        if arrays and not re.search(DTYPE, found.docstring):
            yield "no dtype of its arrays"
    if isinstance(found.node, Function) and "Returns" not in has and not returns_nothing(found.node):
        yield "no Returns"
    if raises(found.node) and "Raises" not in has:
        yield "no Raises"
    if is_numerical(found):
        yield from (f"no {section}" for section in ("Precision", "Cost", "Source") if section not in has)


def shapes(found: Definition) -> Iterator[str]:
    """Each array argument or field is named and its shape follows; an array result has a shape."""
    text = found.docstring
    yield from (f"no shape of {name}" for name in arrays_of(arguments_of(found)) if not shaped(name, text))
    if isinstance(found.node, Function) and is_array(found.node.returns):
        result = sections(text).get("Returns") or text
        if not re.search(SHAPE, result):
            yield "no shape of the result"


def cost(found: Definition) -> Iterator[str]:
    """A function that loops in compiled code or factorises a matrix says what it costs."""
    used = {node.attr for node in ast.walk(found.node) if isinstance(node, ast.Attribute)} & LOOPS
    if isinstance(found.node, Function) and used and "Cost" not in sections(found.docstring):
        yield f"no Cost (it calls {', '.join(sorted(used))})"


def sections(docstring: str) -> dict[str, str]:
    """The text of each section: `Name:` at the left edge, then the indented lines below or the rest of a paragraph."""
    found: dict[str, str] = {}
    current, indented = "", False
    for line in docstring.splitlines():
        start = re.match(rf"({'|'.join(SECTIONS)}):(.*)", line)
        if start:
            current, indented = start[1], not start[2].strip()
            found[current] = start[2]
        elif (line and not line.startswith(" ")) if indented else not line:
            current = ""
        elif current:
            found[current] += "\n" + line
    return found


def is_array(annotation: ast.expr | None) -> bool:
    """An annotation that names an array type, alone or in a union or tuple (a function of arrays is no array)."""
    if annotation is None:
        return False
    text = ast.unparse(annotation)
    return "Callable" not in text and bool(re.search(r"\b(Array|ndarray|ArrayLike)\b", text))


def arrays_of(inputs: dict[str, ast.expr | None]) -> list[str]:
    """The arguments that are arrays; a PRNG key has no shape to state."""
    return [name for name, annotation in inputs.items() if is_array(annotation) and name not in ("key", "keys")]


def shaped(name: str, text: str) -> bool:
    """The name is followed by a shape before 120 characters are over ("A1, A2: (n, d)" serves both)."""
    return bool(re.search(rf"\b{re.escape(name)}\b(?s:.{{0,120}}?)(?:{SHAPE})", text))


def returns_nothing(node: Function) -> bool:
    """Annotated `-> None`."""
    return isinstance(node.returns, ast.Constant) and node.returns.value is None


def raises(node: ast.AST) -> bool:
    """It raises by itself, or asks a `check_…` or `as_array` to."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and inner.exc is not None and "NotImplementedError" not in ast.unparse(inner):
            return True
        if isinstance(inner, ast.Call) and re.fullmatch(r"check_\w+|as_array", ast.unparse(inner.func)):
            return True
    return False


def is_numerical(found: Definition) -> bool:
    """It computes: no data (`attnreg.problems`), no record, no interface, no function that returns words."""
    if found.module.package == "attnreg.problems":
        return False
    if isinstance(found.node, Function):
        result = ast.unparse(found.node.returns) if found.node.returns else ""
        return not set(re.findall(r"\w+", result)) <= NO_NUMBERS or not result
    methods = [decorators(n) for n in found.node.body if isinstance(n, Function) and not n.name.startswith("_")]
    computes = any(not names & {"property", "cached_property", "classmethod"} for names in methods)
    interface = any("abstractmethod" in names for names in methods)
    return computes and not interface and not bases(found.node) & RECORDS


def table() -> list[tuple[str, int, int, int, int]]:
    """Per package: public functions, those fully annotated, definitions at the top, those whose docstring is whole."""
    total, bare, owed, short = Counter(), Counter(), Counter(), Counter()
    for folder in ("attnreg", "experiments"):
        total.update(f.module.package for module in modules(folder) for f in public_functions(module))
        bare.update(debt.definition.module.package for debt in annotation_debts(folder))
    owed.update(found.module.package for _, found in levels())
    debtors = {(debt.definition.module.package, debt.definition.where) for _, debt in docstring_debts()}
    short.update(package for package, _ in debtors)
    return [(p, total[p], total[p] - bare[p], owed[p], owed[p] - short[p]) for p in sorted(set(total) | set(owed))]


def totals() -> tuple[int, int, int, int]:
    """The sums of the columns of `table()`."""
    _, *columns = zip(*table(), strict=True)
    functions, annotated, owed, whole = (sum(int(entry) for entry in column) for column in columns)
    return functions, annotated, owed, whole


def main() -> None:
    """Print the table, and with --list every debt."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.docstrings", description=(__doc__ or "")[:78])
    parser.add_argument(
        "--list", metavar="PACKAGE", nargs="?", const="", help="list what is owed, of one package or all"
    )
    chosen = parser.parse_args().list
    rows = table()
    rows.append(("all", *totals()))
    print(f"{'package':<24}{'functions':>10}{'annotated':>10}{'docstrings':>11}{'complete':>9}")
    for package, functions, annotated, docstrings, complete in rows:
        print(f"{package:<24}{functions:>10}{annotated:>10}{docstrings:>11}{complete:>9}")
    if chosen is not None:
        debts = [d for folder in ("attnreg", "experiments") for d in annotation_debts(folder)]
        for debt in [*debts, *(debt for _, debt in docstring_debts())]:
            if debt.definition.module.package.startswith(chosen):
                print(debt)


if __name__ == "__main__":
    main()
