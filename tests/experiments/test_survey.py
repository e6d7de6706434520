"""A survey: statistics from their formulas, heads in a batch as heads alone, and a stopped survey that goes on."""

import os
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from attnreg.data.layers import head_map
from attnreg.data.models import trace_layer
from attnreg.fit.coordinates import whitened
from attnreg.fit.from_maps import logarithm_start
from attnreg.objectives.factored import FactoredObjective
from attnreg.problems import ProblemError
from attnreg.problems.attention import AttentionRegression
from attnreg.problems.layer import LayerRegression
from experiments import run
from experiments.runner.config import resolve
from experiments.runner.record import Record
from experiments.runner.signals import EXIT_PREEMPTED
from experiments.runner.store.arrays import load as load_arrays
from experiments.runner.store.encoding import read_json
from experiments.survey.fits import Heads, Texts
from experiments.survey.heads import _embedded
from experiments.survey.models import load
from experiments.survey.report import COLUMNS
from experiments.survey.statistics import STATISTICS, layer_pass, table_of

CONFIG = f"{Path(__file__).parents[2] / 'configs' / 'survey.py'}:smoke"
ROTARY = ["--config.data.random.rotary=True"]


def start(workdir, *more):
    return run.main(["--config", CONFIG, "--workdir", workdir, *more])


def naive(model, ids):
    """The statistics of layer 0 from every row of every map, one after the other."""
    config, out = model.config, []
    traces = [trace_layer(model, jnp.asarray(document), 0) for document in ids]
    for head in range(config.heads):
        entropy, relative, sink, squares, apart, size = [], [], [], [], 0.0, 0.0
        for trace in traces:
            q, k = np.asarray(trace.q_rotated)[head], np.asarray(trace.k_rotated)[head // config.shared]
            for i in range(len(q)):
                s = config.scale * k[: i + 1] @ q[i]
                p = np.exp(s) / np.exp(s).sum()
                apart, size = apart + np.sum((p - 1 / (i + 1)) ** 2), size + np.sum(p**2)
                if i:
                    entropy.append(-np.sum(p * np.log(p)))
                    relative.append(entropy[-1] / np.log(i + 1))
                    sink.append(p[0])
                    squares.extend((s - s.mean()) ** 2)
        out.append([np.mean(entropy), np.mean(relative), np.mean(squares) ** 0.5, np.mean(sink), apart / size])
    return np.array(out)


def test_the_statistics_of_every_head_are_those_of_their_formulas():
    model, ids = load(resolve(CONFIG, [*ROTARY, "--config.precision=float64"]).config)
    passed = layer_pass(model.config, model.parameters.layers[0], _embedded(model, ids), keep=False)
    np.testing.assert_allclose(table_of(passed.sums), naive(model, ids), rtol=1e-11)
    below = np.asarray(passed.hidden)
    again = layer_pass(model.config, model.parameters.layers[1], jnp.asarray(below), keep=True)
    np.testing.assert_allclose(again.inputs[2], trace_layer(model, jnp.asarray(ids[2]), 1).inputs, atol=1e-12)


def test_a_start_in_a_batch_is_the_start_of_a_head_alone():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(5, 12, 5))
    maps = np.stack([head_map(A @ rng.normal(size=(5, 2)), A @ rng.normal(size=(5, 2))) for _ in range(3)], axis=1)
    heads, texts = Heads(2, False, None), Texts(A[:4], maps[:4], A[4:], maps[4:])
    batch = heads.starts(texts, 60)
    np.testing.assert_allclose(heads.starts(texts, 60, 1), batch, rtol=0, atol=1e-8)
    with pytest.raises(ProblemError, match="batch is 2; it must divide the 3 heads"):
        heads.starts(texts, 60, 2)
    coordinates = whitened(LayerRegression(A[:4], A[:4]))[0]
    white = A @ coordinates.into
    for head, loss in enumerate(batch):
        problem = AttentionRegression(white[:4], white[:4], maps[:4, head])
        x = logarithm_start(FactoredObjective(problem, 2))
        unseen = FactoredObjective(AttentionRegression(white[4:], white[4:], maps[4:, head]), 2)
        alone = float(unseen.value(x)) / np.sum(maps[4:, head] ** 2)
        assert abs(loss - alone) <= 1e-8
        assert loss < 1e-10


def test_a_survey_has_every_head_and_goes_on_where_it_stopped(monkeypatch):
    assert start("whole") == 0
    whole = load_arrays(Path("whole"))["table"]
    assert np.isfinite(whole[..., : len(STATISTICS) + 1]).all()
    assert np.isnan(whole[..., COLUMNS.index("heldout")]).all()
    # (QG, KG⁻ᵀ) with G (4, 4) writes the same maps.
    assert np.all(whole[..., COLUMNS.index("unknowns")] - whole[..., COLUMNS.index("determined")] == 16)
    assert len(Path("whole/tables/heads.csv").read_text().splitlines()) == 1 + 2 * 4
    assert Path("whole/figures/heads.png").exists()
    log = Record.log

    def log_and_signal(self, at, **scalars):
        log(self, at, **scalars)
        if at == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "log", log_and_signal)
        assert start("run", "--checkpoint-seconds=0") == EXIT_PREEMPTED
    assert start("run") == 0
    np.testing.assert_array_equal(load_arrays(Path("run"))["table"], whole)


@pytest.mark.slow
def test_a_survey_fits_rotary_heads_and_stops_between_two(monkeypatch):
    fits = [*ROTARY, "--config.fit.seconds=900", "--config.fit.tol=1e-4", "--config.layers=(1,)"]
    more = ["--config.data.documents=40", "--config.data.tokens=16"]
    reached, log = [], Record.log

    def log_and_signal(self, at, **scalars):
        log(self, at, **scalars)
        reached.append(scalars.get("head"))
        if scalars.get("head") == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "log", log_and_signal)
        assert start("run", *fits, *more, "--checkpoint-seconds=0") == EXIT_PREEMPTED
        assert reached == [None, 0, 1]
        assert start("run", *fits, *more) == 0
    assert reached == [None, 0, 1, 2, 3, None]
    table = load_arrays(Path("run"))["table"]
    assert np.isnan(table[0]).all()
    assert np.median(table[1, :, COLUMNS.index("heldout")]) < 1e-2
    assert "heldout" in read_json(Path("run/result.json"))["median"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.model=", "data.model is empty"),
        ("data.model=nowhere", "'nowhere'; it must be one of"),
        ("layers=(2,)", "layers is 2"),
        ("fit.seconds=-1.0", "fit.seconds is -1"),
        ("data.documents=0", "data.documents is 0"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(override, words, capsys):
    assert start("run", f"--config.{override}") == 2
    assert words in " ".join(capsys.readouterr().err.split())
