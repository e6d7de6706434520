"""Every config keeps the contract of CONTRIBUTING.md, and its smoke variant runs to a result."""

import inspect
import time
from pathlib import Path

import jax
import matplotlib
import pytest

from experiments.runner import execute as execution
from experiments.runner import experiment, past, tasks
from experiments.runner.config import Run, UsageError, as_flags, field_paths, load_module, resolve
from experiments.runner.store import folder
from experiments.runner.store.encoding import read_json

ROOT = Path(__file__).parents[2]
# x_defaults.py holds fields that several configs share; it is no config.
CONFIGS = sorted(
    p for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__" and not p.stem.endswith("_defaults")
)
# JAXopt, a peer in the benchmarks, announces its end when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")

RUN_ELSEWHERE = {"benchmark_solvers", "benchmark_closed_forms"}  # tests/experiments/test_benchmarks.py runs their smoke
SMOKE_CPU_SECONDS = 60.0  # of one config; a smoke variant is seconds of work, compilation included


def config_test(test):
    return pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)(test)


@config_test
def test_a_config_opens_with_what_it_shows(path):
    text = (load_module(path).__doc__ or "").lower()
    for words in (("python -m experiments.",), ("expected", "shows"), ("time", " s ", "minutes", "seconds")):
        assert any(word in text for word in words), f"{path.name}: its docstring does not say {words[0]!r}"
    assert f"configs/{path.name}" in text


@config_test
def test_every_variant_of_a_config_resolves_and_names_its_experiment(path):
    for variant in ("full", *load_module(path).VARIANTS):
        resolved = resolve(f"{path}:{variant}")
        module = experiment.experiment_module(resolved.config.experiment)
        folder.fingerprint(resolved.config.to_dict())
        if experiment.batched(module):
            assert list(inspect.signature(module.run_batch).parameters) == ["configs", "records"]
            assert set(module.BATCHED) <= set(field_paths(resolved.config))
        else:
            assert list(inspect.signature(module.run).parameters) == ["config", "record"]


@config_test
def test_its_experiment_says_what_it_is_about_and_expectations_name_its_metrics(path):
    module, names = load_module(path), set()
    for variant in ("full", *module.VARIANTS):
        words = experiment.experiment_module(resolve(f"{path}:{variant}").config.experiment).ABOUT
        assert words.title
        assert words.summary.endswith(".")
        assert words.metrics[0].meaning
        assert all(m.better in ("lower", "higher", "") and m.over in ("max", "min", "median") for m in words.metrics)
        names = {metric.name for metric in words.metrics}
        assert len(names) == len(words.metrics)
    expected = getattr(module, "EXPECTED", {})
    assert set(expected) <= {"full", *module.VARIANTS}
    for limits in expected.values():
        assert set(limits) <= names
        assert all(low is None or high is None or low <= high for low, high in limits.values())
    full = dict(resolve(str(path)).expected)
    assert full == expected.get("full", {})
    assert dict(resolve(str(path), ["--config.seed=5"]).expected) == full
    assert dict(resolve(str(path), ["--config.precision=float32"]).expected) == {}


@config_test
def test_variants_are_declared_and_a_misspelt_one_is_refused_by_name(path):
    declared = load_module(path).VARIANTS
    assert "smoke" in declared
    with pytest.raises(UsageError, match=r"no variant 'smkoe'.*smoke"):
        resolve(f"{path}:smkoe")


@config_test
def test_smoke_is_the_same_experiment_with_the_same_fields(path):
    full, smoke = (resolve(f"{path}:{variant}").config for variant in ("full", "smoke"))
    assert full.experiment == smoke.experiment
    assert set(full.keys()) == set(smoke.keys())
    assert full.to_dict() != smoke.to_dict()


@config_test
def test_a_config_is_pure(path):
    module = load_module(path)
    assert module.get_config().to_dict() == module.get_config().to_dict()
    if hasattr(module, "sweep"):
        assert list(module.sweep()) == list(module.sweep())


@config_test
def test_every_task_of_a_sweep_resolves(path, tmp_path):
    if not hasattr(load_module(path), "sweep"):
        return
    listed = tasks.tasks(str(path), [], tmp_path)
    assert len({task.fingerprint for task in listed}) == len(listed)
    assert all(as_flags(task.overrides) for task in listed)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem not in RUN_ELSEWHERE], ids=lambda path: path.stem)
def test_the_smoke_variant_runs(path, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.setenv("ATTNREG_COMPILATION_CACHE", "off")
    started = time.process_time()
    with jax.numpy_dtype_promotion("standard"):  # as users run it
        code = execution.execute([Run(resolve(f"{path}:smoke"), tmp_path / "run")], execution.Settings())
    failure = tmp_path / "run" / folder.FAILURE
    if failure.exists() and read_json(failure)["error"] == "ModelMissingError":
        pytest.skip(read_json(failure)["message"])  # the fetched model is not on this machine
    assert code == 0
    headline = past.read(tmp_path / "run").headline
    assert [line.metric.name for line in headline if line.value is None] == []
    assert time.process_time() - started < SMOKE_CPU_SECONDS
