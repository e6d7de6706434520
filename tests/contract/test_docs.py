"""What the pages say of the repository is there: paths, tests, modules, names in them, and links."""

import re

import pytest

from tests.contract import citations
from tests.contract.source import ROOT

# CHANGELOG.md tells what was, under the names of that time.
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def page_test(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())(test)


@page_test
def test_a_page_names_only_what_exists(page):
    assert citations.stale(page) == []


@page_test
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    here = [target for target in targets if "://" not in target]
    assert [target for target in here if not (page.parent / target).exists()] == []


@page_test
def test_commands_name_modules_and_configs_that_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python3? -m ((?:attnreg|experiments|tests)(?:\.\w+)+)", text)
    configs = re.findall(r"--config[ =](\w+/\w+\.py)", text)
    places = {name: ROOT / name.replace(".", "/") for name in modules}
    found = {name for name, at in places.items() if at.with_suffix(".py").exists() or (at / "__main__.py").exists()}
    missing = [name for name in modules if name not in found]
    missing += [path for path in configs if not citations.exists(path)]
    assert missing == []
