"""Every module imports only what its layer may (tests/contract/layers.py), and closed forms contain no autodiff."""

import ast
import subprocess
import sys

import pytest

from tests.contract.citations import resolves
from tests.contract.layers import LAYERS, forbidden, layer_of, markdown
from tests.contract.source import ROOT, modules, names_of

MODULES = [module for folder in ("attnreg", "experiments", "configs") for module in modules(folder)]
PACKAGE = [module for module in MODULES if module.name.split(".")[0] == "attnreg"]
# Closed forms contain no autodiff, so that "closed form against autodiff" tests something. One module says what JAX is
# to do when it differentiates them, in the data by autodiff.
RULES = "attnreg.objectives.derivatives"
CLOSED_FORMS = [
    m for m in PACKAGE if m.package in ("attnreg.rows", "attnreg.lift", "attnreg.objectives") and m.name != RULES
]
AUTODIFF = {"grad", "value_and_grad", "jvp", "vjp", "linearize", "hessian", "jacfwd", "jacrev", "jacobian"}


def imported(tree: ast.Module, package: list[str]) -> set[str]:
    """Full names of everything a module imports, at any depth of its code; relative imports resolved."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1] if node.level else [])
            origin = ".".join(filter(None, (base, node.module or "")))
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def test_imports_are_seen():
    text = "import absl.flags, os\nfrom attnreg import lift\nfrom ..problems import f\ndef g():\n from . import ok\n"
    names = imported(ast.parse(text), ["attnreg", "rows"])
    assert names == {"absl.flags", "os", "attnreg.lift", "attnreg.problems.f", "attnreg.rows.ok"}
    assert forbidden("attnreg.rows.linear", names) == names - {"attnreg.rows.ok", "os"}
    assert forbidden("attnreg.rowsandmore", {"jax"}) == {"jax"}  # no layer of that name: nothing is allowed
    assert forbidden("attnreg.data.synthetic", {"attnreg.lift.streaming.rows_of"})
    assert not forbidden("attnreg.data.synthetic", {"attnreg.lift.tensor_trick.matmul"})
    assert forbidden("experiments.icl.train", {"experiments.fit.map.run", "attnreg.solve"}) == {
        "experiments.fit.map.run"
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.where)
def test_a_module_imports_only_what_its_layer_may(module):
    layer = layer_of(module.name)
    assert layer is not None, (
        f"{module.where} is in no layer: add a row to tests/contract/layers.py and CONTRIBUTING.md"
    )
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    wrong = forbidden(module.name, imported(module.tree, package))
    assert not wrong, f"{module.where} may not import {sorted(wrong)} (layer {layer.name}, CONTRIBUTING.md)"


def test_a_module_without_a_layer_is_found():
    assert layer_of("attnreg.helpers") is None
    assert layer_of("experiments.helpers") is None
    assert layer_of("attnreg.data.tools.fetch_minilm").name == "attnreg.data.tools"


def test_every_layer_exists():
    assert [layer.name for layer in LAYERS if names_of(layer.name) is None] == []
    named = {name for layer in LAYERS for name in layer.ours}
    assert [name for name in named if not resolves(name)] == []


def test_contributing_shows_this_table():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert markdown() in text, "CONTRIBUTING.md does not show what `python -m tests.contract.layers` prints"


@pytest.mark.parametrize("module", CLOSED_FORMS, ids=lambda module: module.where)
def test_closed_forms_contain_no_autodiff(module):
    used = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jax":
            used |= {node.attr} & AUTODIFF
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            used |= {alias.name for alias in node.names} & AUTODIFF
    assert not used, f"{module.where} uses jax.{used.pop()}"


def test_importing_the_package_changes_no_jax_setting_and_loads_no_flags():
    program = "import jax, sys\nbefore = dict(jax.config.values)\n"
    program += "".join(f"import {module.name}\n" for module in PACKAGE)
    program += "assert dict(jax.config.values) == before, 'jax.config was changed'\n"
    program += "assert not {'ml_collections', 'experiments', 'configs'} & set(sys.modules), 'loads the upper layers'\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_attnreg_does_not_load_what_few_need():
    """optax and scipy take a fifth of a second of every process; whoever uses them loads them."""
    program = "import sys, attnreg\nassert not {'optax', 'scipy', 'matplotlib'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["attnreg", "experiments", "configs"])
def test_no_drawer_modules(folder):
    drawers = {"utils", "helpers", "common", "misc"}
    assert [module.where for module in modules(folder) if drawers & set(module.name.split("."))] == []
