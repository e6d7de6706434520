"""Experiments on a model of your own and on files of arrays: what they fit is what they were given."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from attnreg.data.files import read_documents
from attnreg.data.models import load_model, load_tokenizer, trace_layer
from attnreg.data.models.windows import text_windows
from attnreg.objectives.factored import FactoredObjective
from attnreg.problems.checks import ProblemError
from experiments import run
from experiments.benchmarks.activations import maps_cell, outputs_cell
from experiments.fit import data as fit_data
from experiments.fit.report import attention_maps
from experiments.recover.data import load
from experiments.runner.config import resolve
from experiments.runner.store.encoding import read_json
from tests.experiments import sources

CONFIGS = Path(__file__).parents[2] / "configs"
MAP, FIGURES = f"{CONFIGS}/attention_head.py:smoke", {"convergence", "heldout", "maps_train", "maps_heldout"}
HEAD, LAYER = (f"{CONFIGS}/recover_{kind}.py:smoke" for kind in ("head", "layer"))
pytestmark = pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")


def flags(**fields):
    return [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]


def model_fields(**more):
    folder, text = sources.llama_folder(Path("llama")), sources.text_file(Path("text.txt"))
    fields = dict(data__source="model", data__model=folder, data__text=text, data__layer=1, data__tokens=10, rank=6)
    return fields | more


def given(config, **fields):
    return resolve(config, flags(**fields)).config


def run_main(config, **fields):
    return run.main(["--config", config, *flags(**fields), "--workdir", "run"])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_is_read_as_it_was_written(suffix):
    arrays = sources.head()
    path = Path(f"x{suffix}")
    np.savez(path, **arrays) if suffix == ".npz" else save_file(arrays, path)
    found = read_documents(path)
    assert found.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(A=None), "has no array 'A'"),
        (dict(K=None), "one of 'Q' and 'K'"),
        (dict(B=np.zeros((3, 9, 3), "f")), "B is (3, 9, 3); it must be (k, n, c) with k = 12, n = 9"),
        (dict(A=np.zeros((12, 9, 4), int)), "dtype int64; it must be floats"),
        (dict(maps=np.full((12, 9, 9), np.nan, "f")), "maps has entries that are not finite"),
    ],
)
def test_a_wrong_file_is_refused_by_its_array(change, words):
    np.savez("x.npz", **{name: value for name, value in (sources.head() | change).items() if value is not None})
    with pytest.raises(ProblemError) as error:
        read_documents("x.npz")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(data__source="arrays"), "data.path is empty"),
        (dict(data__source="arrays", data__path="none.npz"), "there is no such file"),
        (dict(data__source="arrays", data__path="x.txt"), "must be a .npz or a .safetensors"),
        (dict(data__source="arrays", data__path="damaged.npz"), "cannot be read"),
        (dict(data__source="arrays", data__path="x.npz", data__documents=11), "x.npz has 12 documents; 11 + 2 + 1"),
        (dict(data__source="arrays", data__path="a.npz", targets="maps"), "has no maps, or Q and K"),
        (dict(data__source="model"), "data.model is empty"),
        (dict(data__source="model", data__model="nowhere"), "'nowhere'; it must be one of"),
        (dict(data__source="model", data__model="llama", data__text="no.txt"), "'no.txt', and there is no such file"),
        (dict(data__source="model", data__model="llama", data__text="short.txt"), "has 2 windows of 12 tokens"),
        (dict(data__source="model", data__model="llama", data__text="t.txt", data__layer=2), "layer is 2"),
    ],
)
def test_a_missing_thing_is_named_in_one_line(fields, words, capsys):
    arrays = sources.head()
    np.savez("x.npz", **arrays)
    np.savez("a.npz", A=arrays["A"])
    Path("damaged.npz").write_bytes(b"PK no archive")
    Path("x.txt").write_text("no arrays")
    sources.llama_folder(Path("llama"))
    sources.text_file(Path("t.txt"))
    sources.text_file(Path("short.txt"), letters=30)
    sizes = dict(data__heldout_documents=2, data__test_documents=1)
    assert run_main(HEAD, **(sizes | fields)) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_windows_are_the_text_cut_and_marked():
    class Marked:
        def encode(self, text):
            return np.array([90, *map(ord, text), 91, 92])

    Path("t.txt").write_text("abcdefgh")
    one, two = text_windows(Marked(), (2, 1), 5, text="t.txt")
    assert one.tolist() == [[90, 97, 98, 91, 92], [90, 99, 100, 91, 92]]
    assert two.tolist() == [[90, 101, 102, 91, 92]]


def test_a_layer_of_a_folder_is_what_the_model_computes():
    fields = model_fields(precision="float64")
    data = load(given(LAYER, **fields), None)
    model, tokenizer = (load("llama") for load in (lambda x: load_model(x, dtype=jnp.float64), load_tokenizer))
    ids = text_windows(tokenizer, (8, 4, 2), 10, text="text.txt")
    trace = trace_layer(model, jnp.asarray(ids[2][1]), 1)
    np.testing.assert_allclose(data.test[1], trace.inputs, atol=1e-13)
    scale = 1e-12 * np.abs(trace.output).max()
    np.testing.assert_allclose(data.targets("outputs", "test")[1][1], trace.output, rtol=0, atol=scale)
    assert (len(data.like.Q), len(data.like.K)) == (4, 2)
    for head in (1, 3):
        one = load(given(HEAD, **fields, data__head=head), head)
        np.testing.assert_allclose(one.targets("maps", "test")[1][1], trace.maps[head], rtol=0, atol=1e-13)
        outputs = one.targets("outputs", "test")[1][1]
        np.testing.assert_allclose(outputs, trace.heads[head], rtol=0, atol=1e-12 * np.abs(outputs).max())


def test_the_peer_sees_turned_shared_and_causal_heads():
    """The true weights solve the plain losses that Adam is given."""
    fields = model_fields(precision="float64")
    layer = load(given(LAYER, **fields), None)
    cell = outputs_cell(
        "layer", *layer.targets("outputs", "train"), heads=4, key_heads=2, rank=6, whole=False, **layer.logits
    )
    assert float(cell.loss(layer.true, cell.data) / cell.unit(cell.data)) < 1e-24
    head = load(given(HEAD, **fields), 3)
    cell = maps_cell("head", *head.targets("maps", "train"), rank=6, **head.logits)
    true = type(cell.x0)(head.true.Q[0], head.true.K[0])
    assert float(cell.loss(true, cell.data) / cell.unit(cell.data)) < 1e-24
    ours = float(cell.objective.value(cell.ours(cell.x0)))
    np.testing.assert_allclose(ours, float(cell.loss(cell.x0, cell.data)), rtol=1e-11)


def test_a_file_goes_through_the_command_and_nothing_is_compared():
    np.savez("x.npz", **sources.head())
    fields = dict(data__source="arrays", data__path="x.npz", data__documents=8, data__heldout_documents=3)
    assert run_main(HEAD, **fields, data__test_documents=1, data__arrays__causal=True, targets="maps") == 0
    result = read_json(Path("run/result.json"))
    assert result["test"] <= 1e-2
    assert not {"heads_found", "least_cosine", "largest_distance"} & result.keys()
    assert not Path("run/tables/recovered.csv").exists()
    assert Path("run/figures/maps.png").exists()


def test_a_fit_of_a_file_has_every_figure_and_no_truth():
    arrays = sources.head(r=2, causal=False)
    save_file({name: arrays[name] for name in "AQK"}, "x.safetensors")
    fields = dict(data__source="arrays", data__path="x.safetensors", rank=2, solver__max_steps=30, compare="()")
    assert run_main(MAP, **fields) == 0
    result = read_json(Path("run/result.json"))
    assert result["loss"] < 0.5 * result["loss_at_zero"]
    assert "logit_error" not in result
    assert {path.stem for path in Path("run/figures").iterdir()} == FIGURES


@pytest.mark.slow
@pytest.mark.parametrize("store", [True, False])
def test_a_fit_of_a_rotary_head_has_every_figure_and_its_truth(store):
    fields = model_fields(compare="('lbfgs',)", compare_full=False, data__store_maps=store, data__head=3)
    more = dict(precision="float64", data__train__docs=50, data__heldout__docs_heldout=3, solver__max_steps=60)
    assert run_main(MAP, **fields, **more) == 0
    result = read_json(Path("run/result.json"))
    assert result["loss"] < 0.5 * result["loss_at_zero"]
    assert 0 <= result["logit_error"] < 1.5
    assert {path.stem for path in Path("run/figures").iterdir()} == FIGURES


def test_a_rotary_head_in_a_full_unknown_is_refused(capsys):
    assert run_main(MAP, **model_fields(rank=0)) == 2
    assert "rank is 0, compare_full is True" in " ".join(capsys.readouterr().err.split())


def test_the_truth_of_a_rotary_head_has_no_loss():
    config = given(MAP, **model_fields(precision="float64", compare_full=False, data__head=3))
    for store in (True, False):
        config.data.store_maps = store
        data = fit_data.load(config)
        zero = data.truth._replace(Q=jnp.zeros_like(data.truth.Q))
        objective = FactoredObjective(data.heldout, 6)
        assert float(objective.value(data.truth)) < 1e-24 * float(objective.value(zero))
        for true, fitted in (attention_maps(part, data.truth, data.rotary) for part in data[:2]):
            np.testing.assert_allclose(fitted, true, rtol=0, atol=1e-13)
    assert len(data.labels.train) == 10


@pytest.mark.slow
def test_a_rotary_head_of_a_folder_is_recovered_by_the_command():
    fields = model_fields(targets="maps", data__documents=60, data__tokens=16, fit__seconds=900, fit__tol=1e-6)
    assert run_main(HEAD, **fields, peer__rates="()", data__head=3) == 0
    result = read_json(Path("run/result.json"))
    assert result["heldout"] <= 1e-3
    assert result["least_cosine"] > 0.99


@pytest.mark.slow
def test_a_grouped_layer_of_a_folder_goes_through_the_command():
    assert run_main(LAYER, **model_fields()) == 0
    assert read_json(Path("run/result.json"))["heldout"] < 1.0
