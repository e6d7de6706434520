"""The wheel, built and installed into empty environments elsewhere; slow, and it downloads what the package needs.

    python -m pytest -m slow -n 0 -s tests/packaging/test_wheel.py

`-s` shows sizes and import times. `PYTHON=python3.13` takes another interpreter.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.contract.source import ROOT

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("PYTHON", sys.executable)

FIT = """
import sys
import numpy as np
import attnreg
from attnreg.fit import fit_layer
A = np.random.default_rng(0).normal(size=(4, 16, 4)).astype("float32")
problem = attnreg.AttentionRegression(A[0], A[0], np.full((16, 16), 1 / 16, "float32"))
print(attnreg.solve(attnreg.AttentionObjective(problem)))
fit = fit_layer(A, A.mean(axis=1, keepdims=True) + 0 * A, rank=1, tol=1e-2, seconds=1e4)
print(fit)
assert fit.train < 1e-2, fit
lab = {"matplotlib", "ml_collections", "orbax", "rich", "experiments", "configs"}
assert not lab & set(sys.modules), lab & set(sys.modules)
"""


def run(*command, cwd, succeeds=True):
    """A command in an environment that knows nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the tracked and new files alone, as a fresh clone has them."""
    source = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", source / "dist", ".", cwd=source)
    return next((source / "dist").glob("*.whl"))


def environment(folder, requirement):
    run(PYTHON, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", requirement, cwd=folder)
    size = sum(path.stat().st_size for path in (folder / "venv" / "lib").rglob("*") if path.is_file()) / 1e6
    print(f"\n{requirement.split(' @')[0]}: {size:.0f} MB installed, pip included")
    return python


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("bare"), str(wheel))


@pytest.fixture(scope="module")
def laboratory(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("lab"), f"attnreg[lab] @ file://{wheel}")


def seconds_to_import(python, name, cwd):
    """CPU seconds of a process, Python's own start included; the faster of two: the second finds compiled files."""
    code = f"import {name}, time; print(time.process_time())"
    return min(float(run(python, "-c", code, cwd=cwd).stdout.split()[-1]) for _ in range(2))


def test_the_wheel_takes_one_name_and_has_types_and_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"attnreg"}
    assert "attnreg/py.typed" in names
    assert "attnreg/_lab/configs/quickstart.py" in names
    for folder in ("experiments", "configs"):
        here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        assert here == {name.removeprefix("attnreg/_lab/") for name in names if f"_lab/{folder}/" in name}
    data = {path.name for path in (ROOT / "attnreg" / "data" / "embedded").iterdir() if path.is_file()}
    assert data <= {Path(name).name for name in names}


def test_the_bare_package_solves_and_fits(bare, tmp_path):
    run(bare, "-c", FIT, cwd=tmp_path)
    print(f"import attnreg: {seconds_to_import(bare, 'attnreg', tmp_path):.2f} CPU s")
    said = run(bare.parent / "attnreg", "run", "--config", "quickstart", cwd=tmp_path, succeeds=False)
    assert "pip install 'attnreg[lab]'" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_laboratory_runs_from_anywhere(laboratory, tmp_path):
    """Also beside folders that have the names of its packages, and in the processes that a sweep starts."""
    for name in ("experiments", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = laboratory.parent / "attnreg"
    said = run(command, "run", "--config", "quickstart:smoke", "--workdir", "one", cwd=tmp_path).stdout
    assert "as a page: attnreg report one" in said
    assert "attnreg run --config attention_head" in said
    assert json.loads((tmp_path / "one" / "result.json").read_text())
    assert json.loads((tmp_path / "one" / "environment.json").read_text())[0]["commit"] is None
    run(command, "report", "one", cwd=tmp_path)
    assert (tmp_path / "one" / "report.html").exists()
    run(command, "sweep", "--config", "selfcheck:smoke", "--workdir", "many", "--jobs", "2", cwd=tmp_path)
    assert len(list((tmp_path / "many").glob("*/result.json"))) > 1
    name = "attnreg.lab as lab; lab.enter(); import experiments.run"
    print(f"import experiments.run: {seconds_to_import(laboratory, name, tmp_path):.2f} CPU s")


def test_the_names_stay_free(laboratory, tmp_path):
    for name in ("experiments", "configs"):
        said = run(laboratory, "-c", f"import attnreg, {name}", cwd=tmp_path, succeeds=False)
        assert f"No module named '{name}'" in said.stderr


def test_the_python_of_the_readme_runs(laboratory, tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    done = run(laboratory, "-c", code[1], cwd=tmp_path)
    assert float(done.stdout.split()[0]) < 1e-8
    assert (tmp_path / "layer.npz").exists()
    assert (tmp_path / "layer.png").exists()
