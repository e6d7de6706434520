"""Compressing a whole model: errors against the forward pass, and a run that goes on where it stopped."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from attnreg.data.models import load_compressed, replace_heads, trace_layer
from attnreg.problems import ProblemError
from configs.compress_heads import get_config
from experiments.compress.data import load, walk
from experiments.compress.heads import _check_heads, empty_state, projections, run
from experiments.compress.judge import layer_errors, rank_correlation
from experiments.compress.methods import METHODS
from experiments.compress.report import gains
from tests.experiments import sources

EPS32 = float(np.finfo(np.float32).eps)


class Memory:
    """A record in memory that can begin with a state, and stop after a step."""

    def __init__(self, workdir, state=None, stop=None):
        self.workdir, self.state, self.stop, self.writes = workdir, state, stop, True
        self.tables, self.lines = {}, []

    def restore(self, initial):
        return self.state or (0, initial)

    def save(self, step, state):
        self.state = step, jax.tree.map(np.copy, state)
        if step == self.stop:
            raise InterruptedError

    def log(self, step, **numbers):
        self.lines.append((step, numbers))

    def table(self, name, columns, rows, **said):
        self.tables[name] = rows

    def say(self, text):
        pass

    expect = figure = lambda self, *args, **said: None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        record = Memory(tmp_path_factory.mktemp("whole"))
        return record, run(get_config("smoke_decoder"), record)


def test_a_decoder_is_compressed_and_its_file_is_the_model(whole):
    record, result = whole
    assert result["heads"] == 4
    assert set(result["ranks"]["2"]["whole"]) == set(METHODS)
    assert result["ranks"]["4"]["exact"]
    config = get_config("smoke_decoder")
    texts = load(config)
    loaded = load_compressed(record.workdir / "compressed_rank2.safetensors")
    made = replace_heads(texts.model, projections(record.state[1], 2, METHODS.index("ours")))
    again = loaded.into(texts.model)
    for a, b in zip(jax.tree.leaves(again.parameters), jax.tree.leaves(made.parameters), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_goes_on_where_it_stopped(whole, tmp_path):
    config = get_config("smoke_decoder")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        first = Memory(tmp_path, stop=3)  # in the middle of the second layer
        with pytest.raises(InterruptedError):
            run(config, first)
        second = Memory(tmp_path, state=first.state)
        result = run(config, second)
    assert second.lines[0][0] == 4
    for name, array in whole[0].state[1].items():
        if name != "seconds":
            np.testing.assert_allclose(second.state[1][name], array, rtol=0, atol=1e-6, err_msg=name)
    assert result["ranks"]["2"]["gain"] == pytest.approx(whole[1]["ranks"]["2"]["gain"])


def test_errors_are_those_of_the_compressed_models_own_pass():
    config = get_config("smoke")
    texts = load(config)
    model = texts.model
    rng = np.random.default_rng(0)
    state = empty_state(model.config, (2,))
    for name in ("query2", "key2"):
        state[name][:] = rng.normal(size=state[name].shape)
    parts = projections(state, 2, 0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, layer = next(walk(texts))
        found = layer_errors(model, 0, layer["test"], parts[0])
        compressed = replace_heads(model, parts)
        own, new = ([trace_layer(each, ids, 0) for ids in texts.parts["test"]] for each in (model, compressed))
    bias = np.asarray(model.parameters.layers[0].output.b)
    F, G = (np.stack([np.asarray(trace.maps, np.float64) for trace in traces]) for traces in (own, new))
    want = np.sum((G - F) ** 2, axis=(0, 2, 3)) / np.sum(F**2, axis=(0, 2, 3))
    np.testing.assert_allclose(found.maps, want, rtol=1e-4)
    A, B = (np.stack([np.asarray(trace.output, np.float64) for trace in traces]) - bias for traces in (own, new))
    assert found.layer == pytest.approx(np.sum((B - A) ** 2) / np.sum(A**2), rel=1e-4)


def test_the_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert rank_correlation(x, x + y) == pytest.approx(stats.spearmanr(x, x + y).statistic, abs=1e-12)


def test_a_gain_is_over_the_best_closed_form_and_rounding_is_no_gain():
    errors = np.array([[0.4, 1e-13], [0.2, 1e-12], [0.3, 1e-13], [0.1, 1e-15]])
    np.testing.assert_allclose(gains(errors), [2.0, 1.0])


def test_heads_that_no_method_compresses_are_refused_by_name(tmp_path):
    config = get_config("smoke_decoder")
    config.data.random.rotary = False
    with pytest.raises(ProblemError, match="2 query heads that share 1 key heads, and no rotary positions"):
        run(config, Memory(tmp_path))
    config = get_config("smoke")
    config.data.source = "model"
    with pytest.raises(ProblemError, match=r"data\.model is empty"):
        run(config, Memory(tmp_path))
    half = replace(load(get_config("smoke_decoder")).model.config, rotary_frequencies=(1.0,))
    with pytest.raises(ProblemError, match="turns 2 of the 4 columns"):
        _check_heads(half)


def test_a_folder_is_compressed_on_windows_of_a_text_that_do_not_overlap(tmp_path):
    config = get_config("smoke_decoder")
    config.data.source, config.data.model = "model", str(sources.llama_folder(tmp_path / "llama"))
    config.data.text = str(sources.text_file(tmp_path / "text.txt", 1000))
    texts = load(config)
    letters = (tmp_path / "text.txt").read_text()
    rows = [*np.concatenate(list(texts.parts.values())), *texts.judge]
    found = ["".join(sources.LETTERS[i] for i in row) for row in rows]
    # In the order of the text: training, held-out, test, and behind them those that judge the whole model.
    ends = [letters.index(piece) + len(piece) for piece in found]
    assert all(before <= letters.index(piece) for before, piece in zip(ends, found[1:], strict=False))
    assert len(found) == 12 + 6 + 6 + 6
