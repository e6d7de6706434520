"""The experiment as users run it: killed and resumed, and batched."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from attnreg.icl.tasks import TaskConfig
from configs.icl_defaults import base
from experiments.icl import arms, measures, tables
from experiments.icl import train as icl
from experiments.run import main
from experiments.runner import process
from experiments.runner.batch import Records
from experiments.runner.config import UsageError, resolve
from experiments.runner.record import Record
from experiments.runner.store import folder
from experiments.runner.store.encoding import plain, read_json
from tests.experiments import torture
from tests.icl import oracles

ROOT = Path(__file__).parents[2]
TINY = ("--config.chunk=5", "--config.train.steps=60")


def launch(workdir, cache):
    """The command of a user, in a process of its own; all three runs share one compilation cache."""
    command = [sys.executable, "-m", "experiments.run", "--config", "configs/icl_attention_kind.py:smoke", *TINY]
    command += [f"--workdir={workdir}", "--checkpoint-seconds=0"]
    # By default only programs that took a second to compile are kept.
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | kept | {"JAX_PLATFORMS": "cpu"}
    workdir.mkdir(exist_ok=True)
    with open(workdir / folder.LOG, "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def lines(workdir):
    path = workdir / folder.METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_kill_9_at_a_random_moment_then_resume_gives_identical_results(tmp_path):
    whole, killed, cache = (tmp_path / name for name in ("whole", "killed", "cache"))
    assert launch(whole, cache).wait() == 0
    moment = random.Random(5).randint(2, 9)  # chunks of 12 in all
    victim = launch(killed, cache)
    while lines(killed) < moment and victim.poll() is None:
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, (killed / folder.LOG).read_text()
    assert not (killed / folder.RESULT).exists()
    assert launch(killed, cache).wait() == 0
    assert "resumed at step" in (killed / folder.LOG).read_text()
    assert torture.same(whole, killed) == (True, True)
    final = read_json(killed / folder.RESULT)["arms"]["softmax_softmax2"]
    assert len(final["final"]["loss"]) == 2
    assert np.isfinite(final["curves"]["loss"]).all()


def test_seeds_are_grouped_by_what_became_of_them():
    def arm(kind, heads=1):
        model = SimpleNamespace(attention=(kind,), heads=heads)
        return SimpleNamespace(model=model)

    final = {"loss": [0.5, 0.6, 0.95, np.nan, 0.5], "sharpness": np.array([-0.1, 0.1, -0.1, 0.1, 0.1])}
    losses, stopped = {"zero": 1.0, "gd": 0.7}, np.array([-1, -1, -1, -1, 7])
    found = measures.groups(arm("softmax"), final, losses, stopped)
    assert found == {"attends away": [0], "attends to": [1], "stuck": [2, 3, 4]}
    assert measures.groups(arm("linear"), final, losses, stopped) == {"": [0, 1], "stuck": [2, 3, 4]}


def test_a_misspelt_or_missing_field_is_refused():
    good = dict(task=dict(kind="linear", dimension=2, length=2, queries=1), train=dict(steps=1, batch=1))
    more = dict(arms={}, model=dict(attention=("linear",)), seeds=1, learning_rate=0.1, chunk=1)
    assert base(**good, **more).task.noise == 0.0
    with pytest.raises(KeyError, match="nois'"):
        base(**good | {"task": good["task"] | {"nois": 1.0}}, **more)
    with pytest.raises(KeyError, match="batch"):
        base(**good | {"train": {"steps": 1}}, **more)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("task.noise=-1", "config.arms.softmax_softmax2, section task: noise is -1"),
        ("train.decay=2.0", "section train: decay is 2.0"),
        ("train.warmup=11", "section train: warmup is 11"),
        ("tokens.code=4", "section tokens: code is 4"),
        ("model.init_scale=0.0", "section model: init_scale is 0.0"),
        ("evaluation.block=0", "section evaluation: block is 0"),
        ("seeds=0", "config.seeds is 0"),
        ("learning_rate=-0.1", "config.learning_rate is -0.1"),
        ("chunk=7", "no multiple of chunk=7"),
        ("table=titanic", "config.table is 'titanic'"),
        ("table=diabetes", "'real' inputs need a table"),
        ("task.inputs=real", "'real' inputs need a table"),
        ("analyses=('autopsy',)", "config.analyses has 'autopsy'"),
    ],
)
def test_a_wrong_value_ends_in_one_line_that_names_the_field(flag, message, tmp_path, capsys):
    command = ["--config", f"{ROOT}/configs/icl_attention_kind.py:smoke", f"--config.{flag}"]
    with jax.numpy_dtype_promotion("standard"):
        assert main([*command, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_option_of_a_learner_is_a_field_of_the_config(tmp_path):
    """Alternating tokens, mixed heads, MLP, layer norm, a pool of documents and Adam's options, as a user sets them."""
    flags = ["tokens.layout=alternating", "tokens.code=4", "tokens.scratch=3", "model.mlp=4", "model.layer_norm=True"]
    flags += ["arms.softmax_softmax2.model.attention=('mix',)", "train.pool=3", "train.warmup=5", "train.b1=0.8"]
    command = ["--config", f"{ROOT}/configs/icl_attention_kind.py:smoke", *(f"--config.{flag}" for flag in flags)]
    with jax.numpy_dtype_promotion("standard"):
        assert main([*command, f"--workdir={tmp_path}"]) == 0
    final = read_json(tmp_path / folder.RESULT)["arms"]["softmax_softmax2"]["final"]
    assert np.isfinite(final["loss"]).all()
    assert "weight_distance" not in final  # such a learner is no gradient step to be near to


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("rounds=0", "config.rounds is 0"),
        ("own.learning_rate=0.0", "config.own.learning_rate is 0.0"),
        ("half_width=-1.0", "config: input_scale is -1.0"),
    ],
)
def test_the_speed_experiment_names_a_wrong_field(flag, message, tmp_path, capsys):
    command = ["--config", f"{ROOT}/configs/icl_speed.py:smoke", f"--config.{flag}", f"--workdir={tmp_path / 'run'}"]
    with jax.numpy_dtype_promotion("standard"):
        assert main(command) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_shift_or_override_is_named():
    config = resolve(f"{ROOT}/configs/icl_ood.py:smoke").config.copy_and_resolve_references().unlock()
    config.shifts = {"inputs": ("cauchy",)}
    with pytest.raises(UsageError, match="inputs is 'cauchy'"):
        arms.build(config)
    config.shifts = {"length": (3,)}
    with pytest.raises(UsageError, match=r"axis of config\.shifts is 'length'"):
        arms.build(config)
    config.shifts = {}
    config.arms.softmax.task = {"nois": 1.0}
    with pytest.raises(UsageError, match="section task has no field 'nois'"):
        arms.build(config)


def test_real_documents_are_real(key):
    table = tables.load("activations")
    task = TaskConfig(kind="softmax", dimension=16, length=24, queries=24, inputs="real")
    batch = tables.real_documents(key, table.test, task, 3, standardise=False)
    sets, logits = (np.asarray(leaf, np.float32) for leaf in table.test)
    for context, targets in zip(np.asarray(batch.context), np.asarray(batch.targets), strict=True):
        texts = [p for p in range(0, len(sets), 64) if all((sets[p] == row).all(1).any() for row in context)]
        assert len(texts) == 1  # all rows of one text
        tokens = [int(np.flatnonzero((sets[texts[0]] == row).all(1))[0]) for row in context]
        rows = logits[texts[0] : texts[0] + 64][:, tokens]
        expected = oracles.softmax(rows)
        np.testing.assert_allclose(abs(expected - targets).max(1).min(), 0, atol=1e-5)  # the attention of one token
    assert tables.features("activations", "float32").shape == (8 * 64, 16)


@pytest.mark.slow
def test_a_batch_gives_the_numbers_of_its_members(tmp_path):
    overrides = [(f"--config.seed={seed}", "--config.learning_rate=0.02", *TINY) for seed in (0, 1)]
    configs = [resolve(f"{ROOT}/configs/icl_attention_kind.py:smoke", flags).config for flags in overrides]

    def records(name, count):
        made = []
        for i in range(count):
            made.append(Record(tmp_path / f"{name}{i}"))
        return made

    for name in ("alone0", "batch0", "batch1", "other0"):
        (tmp_path / name).mkdir()
    with process.precision("float32"), jax.numpy_dtype_promotion("standard"):
        names = zip(configs, ("alone", "other"), strict=True)
        alone = [icl.run_batch([config], Records(records(name, 1)))[0] for config, name in names]
        together = icl.run_batch(configs, Records(records("batch", 2)))
    for one, other in zip(alone, together, strict=True):
        a, b = (plain(r)["arms"]["softmax_softmax2"]["curves"]["loss"] for r in (one, other))
        np.testing.assert_allclose(b, a, rtol=1e-3)
    assert (
        together[0]["arms"]["softmax_softmax2"]["final"]["loss"][0]
        != together[1]["arms"]["softmax_softmax2"]["final"]["loss"][0]
    )
