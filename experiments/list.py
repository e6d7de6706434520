"""What there is: `python -m experiments.list [FOLDER]` shows the configs with their variants, and the runs in runs/.

`--configs` and `--runs` show one of the two; FOLDER is another folder of runs. A sweep is one line; its tasks are what
`python -m experiments.show runs/x-sweep` shows.
"""

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.runner import past
from experiments.runner.command import called, command, unreadable_is_usage
from experiments.runner.past import Past
from experiments.runner.results import is_sweep
from experiments.runner.screen import age, console, short
from experiments.runner.sheet import sheet

CONFIGS, RUNS = Path("configs"), Path("runs")


class Config(NamedTuple):
    """A config file, read without running it."""

    path: Path
    variants: tuple[str, ...]
    sweep: bool
    title: str


def main(argv: Sequence[str] | None = None) -> int:
    """Print the lists; the exit code."""
    parser = argparse.ArgumentParser(prog=called("list"), description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("root", type=Path, nargs="?", default=RUNS, help="a folder of runs (default runs)")
    parser.add_argument("--configs", action="store_true", help="only the configs")
    parser.add_argument("--runs", action="store_true", help="only the runs")
    options = parser.parse_args(argv)
    return command(lambda: _list(options))


def _list(options: argparse.Namespace) -> int:
    screen = console()
    with unreadable_is_usage():
        if options.configs or not options.runs:
            rows = [(c.path.stem, ", ".join((*c.variants, *(["(sweep)"] * c.sweep))), c.title) for c in configs()]
            title = f"configs: --config {CONFIGS}/CONFIG.py, or {CONFIGS}/CONFIG.py:VARIANT"
            screen.print(sheet(title, ("config", "variants", "what it shows"), rows))
        if options.runs or not options.configs:
            rows = list(run_lines(options.root))
            if rows:
                screen.print(sheet(f"runs in {options.root}", ("run", "state", "age", "headline"), rows))
            else:
                screen.print(f"no run in {options.root}")
    return 0


def configs(root: Path = CONFIGS) -> list[Config]:
    """Every config in a folder; files of shared fields (`x_defaults.py`) are none."""
    paths = [p for p in sorted(root.glob("*.py")) if p.stem != "__init__" and not p.stem.endswith("_defaults")]
    return [_config(path) for path in paths]


def _config(path: Path) -> Config:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    variants: list[str] = []
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "VARIANTS" and isinstance(value, ast.Dict):
            variants += [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    sweep = any(isinstance(node, ast.FunctionDef) and node.name == "sweep" for node in tree.body)
    return Config(path, tuple(variants), sweep, title)


def run_lines(root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Folder, state, age and headline of every run and every sweep below a folder."""
    for workdir in past.below(root):
        if is_sweep(workdir):
            tasks = [past.read(path) for path, _ in past.members(workdir)]
            states = Counter(task.state for task in tasks)
            newest = age(min((task.seconds_ago for task in tasks), default=0.0)) if tasks else ""
            counts = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
            yield str(workdir), "sweep", newest, counts or "no task begun"
        else:
            run = past.read(workdir)
            yield str(workdir), run.state, age(run.seconds_ago), headline(run)


def headline(run: Past) -> str:
    """The first two headline numbers of a run in one text; of one that failed, why."""
    if run.state == past.FAILED:
        return past.failure(run.workdir)
    return ", ".join(f"{line.metric.name} {short(line.value)}" for line in run.headline[:2] if line.value is not None)


if __name__ == "__main__":
    sys.exit(main())
