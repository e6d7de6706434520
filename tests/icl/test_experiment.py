"""The experiment as users run it: killed and resumed, and batched."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import icl, torture
from experiments.batch import Records
from experiments.launch import process
from experiments.launch.configuration import resolve
from experiments.record import Record
from experiments.store import folder
from experiments.store.encoding import plain, read_json

ROOT = Path(__file__).parents[2]
TINY = ("--config.chunk=5", "--config.train.steps=60")


def launch(workdir, cache):
    """The command of a user, in a process of its own; all three runs share one compilation cache."""
    command = [sys.executable, "-m", "experiments.run", "--config", "configs/icl_attention_kind.py:smoke", *TINY]
    command += [f"--workdir={workdir}", "--checkpoint-seconds=0"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
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
        alone = [icl.run(config, records(name, 1)[0]) for config, name in zip(configs, ("alone", "other"), strict=True)]
        together = icl.run_batch(configs, Records(records("batch", 2)))
    for one, other in zip(alone, together, strict=True):
        a, b = (plain(r)["arms"]["softmax_softmax2"]["curves"]["loss"] for r in (one, other))
        np.testing.assert_allclose(b, a, rtol=1e-3)
    assert (
        together[0]["arms"]["softmax_softmax2"]["final"]["loss"][0]
        != together[1]["arms"]["softmax_softmax2"]["final"]["loss"][0]
    )
