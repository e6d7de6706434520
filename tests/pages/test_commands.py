"""Every command of README, the guides and the claims names a program, options and fields that there are.

A command is parsed by its own parser, in this process, and stopped there; its config is resolved with its overrides.
What the configs compute is run by tests/contract/test_configs.py, in their smoke variants.
"""

import argparse
import importlib.util
import os
import re
import runpy
import sys
import tomllib

import pytest

from experiments.runner.config import declared_variants, load_module, resolve
from tests.contract.source import ROOT
from tests.pages.extract import PAGES, commands, configs, name

# `configs/x.py` stands for any config, where a page says how a program is called.
ANY_CONFIG = "configs/selfcheck.py"
# They take nothing, or one file that a sweep writes, and have no parser.
NO_PARSER = {"experiments.runner.worker", "tests.contract.layers", "tests.data.transformers_oracle", "tests.pages"}
# Programs of others, with parsers of their own kind: tests/pages/test_site.py runs this one.
OTHERS = {"mkdocs"}
# What it does not know it hands to the sweep that it tortures.
OF_A_SWEEP = {"tests.experiments.torture_sweep"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

pytestmark = [
    # Programs are run as programs, which some test has imported before.
    pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained"),
]


class Parsed(BaseException):
    """The command line was read: the program is stopped here."""


def parse(module, arguments, monkeypatch):
    """Options and leftover arguments of `python -m MODULE ARGUMENTS`, by the parser of the module."""
    read = argparse.ArgumentParser.parse_known_args

    def stop(self, args=None, namespace=None):
        raise Parsed(*read(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr(os, "environ", os.environ.copy())  # tests.attack changes it when it is imported
        patch.setattr(sys, "argv", [module, *arguments])
        try:
            runpy.run_module(module, run_name="__main__")
        except Parsed as parsed:
            return parsed.args
        except SystemExit as ended:
            raise AssertionError(f"its own parser refuses it, exit code {ended.code}") from ended
    raise AssertionError("it ended without reading a command line")


def check(command, monkeypatch):
    """Raise where a command would stop on its own words."""
    if command.program == "pip install":
        wanted = re.findall(r"\[([\w,]+)\]", " ".join(command.arguments))
        assert {extra for names in wanted for extra in names.split(",")} <= set(EXTRAS)
        return
    if command.program == "pytest":
        paths = [word for word in command.arguments if word.startswith("tests/")]
        assert [path for path in paths if not (ROOT / path).exists()] == []
        return
    if command.program in OTHERS:
        return
    assert importlib.util.find_spec(command.program) is not None
    if command.program in NO_PARSER:
        return
    arguments = [re.sub(r"^configs/[xX]\.py", ANY_CONFIG, word) for word in command.arguments]
    options, rest = parse(command.program, arguments, monkeypatch)
    given = getattr(options, "config", None) or []
    assert given or not rest
    for config in [given] if isinstance(given, str) else given:
        if command.program in OF_A_SWEEP:
            _, rest = parse("experiments.sweep", ["--config", config, *rest], monkeypatch)
        resolve(config, rest)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_of_a_page_are_read_by_their_programs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = []
    for command in commands(page):
        try:
            check(command, monkeypatch)
        except (AssertionError, ImportError, ValueError) as error:
            wrong.append(f"{command}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_variants_that_a_page_names_are_declared(page):
    for config, variant in configs(page):
        path = ROOT / "configs" / f"{config}.py"
        if variant and config not in ("x", "X"):
            assert variant in declared_variants(load_module(path), path), f"configs/{config}.py:{variant}"


def test_commands_are_found_where_pages_have_them():
    found = {name(page): len(commands(page)) for page in PAGES}
    assert found["README.md"] >= 7  # two lines of three and four programs
    assert sum(found.values()) > 100
    text = "`... --index 7` and `configs/selfcheck.py:slow --config.pause=1`\n\n    FLAG=<n> python -m a.b c &\n"
    pages = ROOT / "docs" / "guides" / "x.md"
    assert [str(command).partition(": ")[2] for command in commands(pages, text)] == [
        "a.b c",
        "experiments.sweep --config configs/x.py --index 7",
        "experiments.run --config configs/selfcheck.py:slow --config.pause=1",
    ]
