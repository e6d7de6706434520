"""Who may import whom: the table of CONTRIBUTING.md, read from the source of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "attnreg"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# What a part of attnreg must not import from attnreg (prefixes), after the table in CONTRIBUTING.md.
UPPER = ("objectives", "one_layer", "solvers", "bounds", "data", "icl", "sharding")
FORBIDDEN = {
    "rows": ("problems", "losses", "tensor_trick", *UPPER),
    "problems": ("rows", "losses", "tensor_trick", *UPPER),
    "losses": ("rows", "problems", "tensor_trick", *UPPER),
    "tensor_trick": ("rows", "losses", "problems", *UPPER),
    "objectives": ("losses", "solvers", "bounds", "data", "icl", "sharding"),
    "solvers": ("losses", "rows", "problems", "bounds", "data", "icl", "sharding"),
    "bounds": ("rows", "tensor_trick", "objectives", "solvers", "icl", "sharding"),
    "data": ("solvers", "icl", "sharding"),
    "sharding": ("losses", "solvers", "bounds", "data", "icl"),
}
# The one module of problems where row functions and their plain definitions meet: the table of losses.
ALLOWED = {"problems/registry.py": ("rows",)}
# Closed forms contain no autodiff, so that "closed form against autodiff" tests something.
NO_AUTODIFF = ("rows", "tensor_trick", "curvature", "streaming", "preconditioner", "objectives")
AUTODIFF = {"grad", "value_and_grad", "jvp", "vjp", "linearize", "hessian", "jacfwd", "jacrev", "jacobian"}
OUTSIDE = ("absl", "ml_collections", "configs", "experiments", "tests")


def part(path: Path) -> str:
    """`rows` for attnreg/rows/x.py, `losses` for attnreg/problems/losses.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(text: str, package: list[str]) -> set[str]:
    """Full names of everything a module imports, at any depth of its code; relative imports resolved."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1] if node.level else [])
            origin = ".".join(filter(None, (base, node.module or "")))
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def violations(layer: str, names: set[str], allowed: tuple[str, ...] = ()) -> set[str]:
    """The names that a layer may not import, but for the allowed parts."""
    forbidden = [*OUTSIDE, *(f"attnreg.{other}" for other in FORBIDDEN.get(layer, ()) if other not in allowed)]
    return {name for name in names for prefix in forbidden if f"{name}.".startswith(f"{prefix}.")}


def test_violations_are_seen():
    text = "import absl.flags\nfrom attnreg import losses\nfrom ..problems import f\ndef g():\n from . import ok\n"
    names = imported(text, ["attnreg", "rows"])
    assert names == {"absl.flags", "attnreg.problems.losses", "attnreg.problems.f", "attnreg.rows.ok"}
    assert violations("rows", names) == names - {"attnreg.rows.ok"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_its_layer_may(path):
    names = imported(path.read_text(), ["attnreg", *path.relative_to(PACKAGE).parts[:-1]])
    wrong = violations(part(path), names, ALLOWED.get(path.relative_to(PACKAGE).as_posix(), ()))
    assert not wrong, f"{path.relative_to(ROOT)} may not import {sorted(wrong)} (CONTRIBUTING.md, Layers)"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part(p) in NO_AUTODIFF], ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_closed_forms_contain_no_autodiff(path):
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jax":
            used |= {node.attr} & AUTODIFF
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            used |= {alias.name for alias in node.names} & AUTODIFF
    assert not used, f"{path.relative_to(ROOT)} uses jax.{used.pop()}"


def test_importing_the_package_changes_no_jax_setting_and_loads_no_flags():
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in MODULES]
    program = "import jax, sys\nbefore = dict(jax.config.values)\n"
    program += "".join(f"import {name}\n" for name in names)
    program += "assert dict(jax.config.values) == before, 'jax.config was changed'\n"
    program += "assert not {'ml_collections', 'experiments', 'configs'} & set(sys.modules), 'loads the upper layers'\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["attnreg", "experiments", "configs"])
def test_no_drawer_modules(folder):
    drawers = {"utils", "helpers", "common", "misc"}
    found = [p for p in (ROOT / folder).rglob("*.py") if drawers & {p.stem, *p.relative_to(ROOT).parts[:-1]}]
    assert not found
