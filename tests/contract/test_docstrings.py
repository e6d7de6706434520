"""Annotations, what docstrings owe, and that they point at things that exist (CONTRIBUTING.md, "Docstrings")."""

import ast
import textwrap
from collections import defaultdict

import pytest

from tests.contract import citations, docstrings
from tests.contract.source import ROOT, Definition, Module, find, modules

PACKAGES = sorted({module.package for folder in docstrings.FOLDERS for module in modules(folder)})
SOURCES = [module.path for folder in (*docstrings.FOLDERS, "tests") for module in modules(folder)]


def by_package(debts):
    """The debts of each package as text."""
    found = defaultdict(list)
    for debt in debts:
        found[debt.definition.module.package].append(str(debt))
    return found


UNANNOTATED = by_package(debt for folder in ("attnreg", "experiments") for debt in docstrings.annotation_debts(folder))
OWED = by_package(debt for _, debt in docstrings.docstring_debts())


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_are_fully_annotated(package):
    assert not UNANNOTATED[package], "\n" + "\n".join(UNANNOTATED[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_say_what_they_owe(package):
    assert not OWED[package], "\n" + "\n".join(OWED[package])


@pytest.mark.parametrize("folder", [*docstrings.FOLDERS, "tests"])
def test_docstrings_and_comments_cite_only_what_exists(folder):
    stale = [line for path in SOURCES if path.is_relative_to(ROOT / folder) for line in citations.stale(path)]
    assert not stale, "\n" + "\n".join(stale)


def test_every_name_in_all_has_a_definition():
    named = [(package, name) for package in docstrings.LEVEL_A for name in docstrings.exported(package)]
    assert len(named) > 50
    for package, name in named:
        find(package, name)  # LookupError names what is missing


def defined(text):
    """The first definition of a text, as if it stood in attnreg/lift."""
    module = Module(
        ROOT / "attnreg" / "lift" / "x.py", "attnreg.lift.x", "attnreg.lift", ast.parse(textwrap.dedent(text))
    )
    node = next(node for node in module.tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return Definition(module, node, node.name)


WHOLE = '''
def f(A: jax.Array, b: jax.Array, *, tol: float = 0.0, key: jax.Array) -> jax.Array:
    """The solution of A x = b.

    Args:
        A, b: (n, n) and (n,), floating point.
        tol: how exact.
        key: a PRNG key.

    Returns:
        (n,).

    Precision: eps.
    Cost: n³ flops,
    in two passes.
    Source: a book.

    Raises:
        ValueError: b is not (n,).
    """
    if b.ndim > 1:
        raise ValueError("b")
    return jnp.linalg.solve(A, b)
'''


def test_a_whole_docstring_owes_nothing():
    found = defined(WHOLE)
    assert [*docstrings.one_line(found), *docstrings.full(found), *docstrings.shapes(found)] == []
    assert list(docstrings.cost(found)) == []
    assert docstrings.sections(found.docstring)["Cost"].split() == ["n³", "flops,", "in", "two", "passes."]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("The solution of A x = b.", "The solution\n    of A x = b.", "the first line is not a sentence"),
        ("    Args:\n", "    Arguments:\n", "no Args"),
        ("        tol: how exact.\n", "", "Args do not name tol"),
        ("(n, n) and (n,), floating", "matrix and vector, floating", "no shape of A"),
        (", floating point", "", "no dtype of its arrays"),
        ("Returns:", "Gives:", "no Returns"),
        ("Raises:", "Fails:", "no Raises"),
        ("Precision:", "Exact to", "no Precision"),
        ("Cost:", "Costs", "no Cost"),
        ("Source:", "From", "no Source"),
    ],
)
def test_each_rule_of_level_a_is_seen(old, new, reason):
    assert old in WHOLE
    found = defined(WHOLE.replace(old, new))
    assert reason in [*docstrings.one_line(found), *docstrings.full(found)]


def test_each_rule_of_level_b_is_seen():
    found = defined('def f(A: jax.Array, b: jax.Array) -> jax.Array:\n """A x."""\n return jnp.linalg.solve(A, b)')
    assert list(docstrings.shapes(found)) == ["no shape of A", "no shape of b", "no shape of the result"]
    assert list(docstrings.cost(found)) == ["no Cost (it calls solve)"]
    record = defined('class R(NamedTuple):\n """A record: x (n, d)."""\n x: jax.Array\n y: jax.Array | None\n z: int')
    assert list(docstrings.shapes(record)) == ["no shape of y"]
    assert not docstrings.is_numerical(record)


def test_stale_citations_are_seen(tmp_path):
    text = '"""See tests/rows/test_rows.py, `test_nothing`, attnreg.rows.gone and attnreg.rows.normalized."""\n'
    text += "# docs/gone.md, configs/quickstart.py, attnreg.solvers.Newton.gone, attnreg.solvers.Newton.run\n"
    (tmp_path / "a.py").write_text(text)
    found = ["a.py:1 attnreg.rows.gone", "a.py:1 test_nothing", "a.py:2 attnreg.solvers.Newton.gone"]
    assert citations.stale(tmp_path / "a.py") == [*found, "a.py:2 docs/gone.md"]
