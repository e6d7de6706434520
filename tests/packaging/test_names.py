"""Version, types and names of the package, without building it; `test_wheel` builds it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import attnreg
from attnreg import lab
from tests.contract.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# optax has absl of its own.
LAB_ONLY = ("ml_collections", "matplotlib", "cycler", "orbax", "rich", "sklearn")


def test_the_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == attnreg.__version__


def test_the_types_are_announced():
    assert (ROOT / "attnreg" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_extra_lab_is_not_needed_by_the_library():
    program = (
        f"import sys\nsys.modules.update(dict.fromkeys({sorted(LAB_ONLY)!r}))\n"
        "import attnreg, attnreg.fit, attnreg.bounds, attnreg.icl.training, attnreg.lab\n"
        "from attnreg.fit import LayerFit\n"
        "try: LayerFit(None, 0., 0., '', None, 0., ()).plot()\n"
        "except ImportError as error: print(error)\n"
        "try: import experiments\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plot, missing = done.stdout.splitlines()
    assert "pip install matplotlib" in plot
    assert re.search(r"needs cycler, matplotlib, .*rich: pip install -e '.\[lab\]'", missing)


def test_a_config_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lab.named("quickstart:smoke") == f"{ROOT / 'configs' / 'quickstart.py'}:smoke"
    assert lab.named("mine.py:smoke") == "mine.py:smoke"
    assert lab.named("nothing") == "nothing"
    (tmp_path / "quickstart").mkdir()
    assert lab.named("quickstart") == "quickstart"  # a path of the user's comes first


def test_commands_are_those_of_the_checkout(capsys):
    assert {"run", "sweep", "collect", "report", "claims"} <= set(lab.commands())
    assert "selfcheck" not in lab.commands()
    assert lab.main(["--help"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert lab.main(["rum"]) == 2
    assert "no command 'rum'; there are claims" in capsys.readouterr().err


def test_somebody_elses_experiments_is_left_alone(tmp_path, monkeypatch):
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").touch()
    program = "import experiments, attnreg.lab\nattnreg.lab.enter()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "use the laboratory in a process of its own" in done.stderr


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_every_requirement_has_a_lower_bound(extra):
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]
    assert [line for line in wanted if not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?>=[\w.]+|attnreg\[[\w,]+\]", line)] == []


@pytest.mark.slow
def test_the_public_surface_is_typed():
    """All of it, by pyright's own count."""
    # pyright looks for JAX beside the `python` that it finds on the path.
    here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "attnreg", "--ignoreexternal", "--outputjson"],
        cwd=ROOT, env=os.environ | here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["typeCompleteness"]
    assert found["exportedSymbolCounts"]["withKnownType"] > 2000
    incomplete = {symbol["name"] for symbol in found["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]}
    assert incomplete == set()
