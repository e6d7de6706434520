"""Every Python block of README, CONTRIBUTING and the guides runs as printed: a page from top to bottom.

The blocks of a page share a namespace. Files that a page takes from its reader are in `tests/pages/given.py`. What has
to be true afterwards is here, for each page.
"""

import contextlib
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from attnreg.data.cache import ModelMissingError
from attnreg.fit import compare_layers, logit_distance
from attnreg.problems import AttentionRegression, unregister_loss
from attnreg.solvers import NewtonCG, Status
from experiments.runner.config import Resolved, Run
from experiments.runner.execute import Settings, execute
from experiments.runner.store.encoding import read_json
from tests.data.models import tiny
from tests.pages.extract import PAGES, blocks, name, unfenced_python
from tests.pages.given import GIVEN, model

USERS = {"jax_enable_x64": False, "jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow"}
WITH_BLOCKS = [page for page in PAGES if blocks(page)]
# Its first block is that of the README, and rotary fits are in tests/fit/test_rotary_fits.py.
SLOW = {"docs/guides/recover.md"}


@contextlib.contextmanager
def settings_of_a_user():
    """JAX as it is after `import jax`; a page may change it, and the next one finds it as before."""
    before = {option: getattr(jax.config, option) for option in USERS}
    try:
        for option, value in USERS.items():
            jax.config.update(option, value)
        yield
    finally:
        for option, value in before.items():
            jax.config.update(option, value)


def run(page, folder, monkeypatch):
    """The names that a page leaves, after its blocks that can run; tracebacks name the page and its line."""
    monkeypatch.chdir(folder)
    GIVEN.get(name(page), lambda folder: None)(folder)
    names = {"__name__": "page"}
    with settings_of_a_user():
        for block in blocks(page):
            if not block.not_run:
                code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
                try:
                    exec(code, names)
                except ModelMissingError as missing:
                    pytest.skip(str(missing))
        CHECKS[name(page)](names, folder)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if name(page) in SLOW else ()) for page in WITH_BLOCKS],
    ids=map(name, WITH_BLOCKS),
)
def test_the_python_of_a_page_runs_as_printed(page, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch)


def test_no_python_is_left_out():
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) >= 24
    assert [f"{name(block.page)}:{block.line}" for block in found if block.not_run] == []
    assert [text for page in PAGES for text in unfenced_python(page)] == []
    assert set(CHECKS) == set(map(name, WITH_BLOCKS))


def test_every_status_is_in_the_table_of_the_guide():
    text = next(page for page in PAGES if page.name == "fitting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z_]+) \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(status.name for status in Status if status is not Status.RUNNING)


@pytest.mark.slow
def test_the_guide_to_models_runs_with_a_bert(tmp_path, monkeypatch):
    monkeypatch.setitem(GIVEN, "docs/guides/models.md", lambda folder: model(folder, "bert"))
    run(next(page for page in PAGES if page.name == "models.md"), tmp_path, monkeypatch)


def _readme(names, folder):
    assert names["fit"].heldout < 1e-8
    (head,) = compare_layers(names["fit"].weights, names["weights"], names["A"][16:])
    assert max(head.distance, head.values) < 1e-3
    assert (folder / "layer.npz").is_file()
    assert (folder / "layer.png").is_file()
    assert "5120 of 6144 unknowns determined" in names["fit"].determined.describe()


def _contributing(names, folder):
    unregister_loss("log_cosh")
    assert float(names["error"]) < 1e-7


def _bounds(names, folder):
    assert 0.97 < names["found"].supremum[0] / names["bound"].sharp(names["domain"]) < 1.001
    assert names["weight"] == pytest.approx(0.5808, abs=1e-4)


def _compress(names, folder):
    assert names["fit"].projections.Q.shape == (8, 4)
    for layer, same in zip(names["again"].parameters.layers, names["smaller"].parameters.layers, strict=True):
        np.testing.assert_array_equal(layer.query.w, same.query.w)


def _fitting(names, folder):
    assert names["fitted"].params.product().shape == names["problem"].shape == (17, 17)
    assert bool(names["result"].converged)
    assert float(names["result"].value) / names["unit"] == pytest.approx(0.1134, abs=1e-4)
    assert float(names["fitted"].value) < float(names["small"].value(names["small"].start()))
    np.testing.assert_allclose(names["many"].value, float(names["result"].value), rtol=1e-3)
    alone = [NewtonCG(max_steps=3).run(each, names["first"]).value for each in names["objectives"]]
    np.testing.assert_allclose(names["fits"].value, alone, rtol=1e-3)


def _icl(names, folder):
    assert names["losses"].shape == (8, 200)
    zero = 1 / 24 * 10  # the loss of answering 0: E⟨a, w⟩² / 2, a uniform in (−½, ½)¹⁰ and w standard normal
    assert 0.8 * zero < float(jnp.mean(names["losses"])) < 1.2 * zero
    eps = float(np.finfo(np.float32).eps)
    scale = float(jnp.max(jnp.abs(names["step"])))
    assert float(jnp.max(jnp.abs(names["answers"] - names["step"]))) < 100 * eps * scale


def _accelerators(names, folder):
    assert float(names["value"]) < 1e-12
    assert names["gradient"].shape == (3, 3)


def _many_devices(names, folder):
    assert names["result"].value.shape == (2,)
    assert all(float(value) < 1e-6 for value in names["result"].value)


def _models(names, folder):
    assert names["A"].shape == (20, tiny.LONGEST, tiny.D)
    assert names["fit"].weights.Q.shape == (tiny.D, 4)
    assert names["fit"].heldout < 1e-6


def _one_layer(names, folder):
    assert names["fit"].solved
    np.testing.assert_allclose(names["fit"].params.Y, names["Y"], atol=1e-3)


def _real_heads(names, folder):
    head, fit = names["head"], names["fit"]
    assert max(fit.train, fit.heldout) < 1e-7
    found, true = (Q @ K.T for Q, K in (fit.weights, head.true_factors))
    unseen = AttentionRegression(head.A_heldout, head.A_heldout, names["unseen"][1])
    assert float(logit_distance(unseen, jnp.asarray(found), jnp.asarray(true))) < 1e-3
    assert names["problem"].B.shape == (8, 64, 64)
    assert names["heldout"].B.shape == (4, 64, 64)
    assert names["B"].shape == (64, 64)
    assert (names["any_head"].A.shape, names["any_head"].A_heldout.shape) == ((8, 128, 33), (6, 128, 33))


def _recover(names, folder):
    (found,) = names["compared"]
    assert found.distance < 1e-3


def _runs(names, folder):
    _experiment(names, folder, {"start": 1.0, "steps": 4, "chunk": 2})
    assert read_json(folder / "run" / "result.json")["loss"] == pytest.approx(3 * 0.9**6, rel=1e-5)
    assert names["Q"].shape == (4, 2)


def _start(names, folder):
    kept = np.load(folder / "mine.npz")
    assert (kept["A"].shape, kept["B"].shape) == ((24, 128, 64), (24, 128, 32))


def _sweeps(names, folder):
    assert len(names["sweep"]()) == 64
    _experiment(names, folder, {"learning_rate": 0.1, "steps": 4, "chunk": 2})
    start = jax.random.normal(jax.random.key(0), (3,))
    expected = float(jnp.sum((start * 0.8**4) ** 2))
    assert read_json(folder / "run" / "result.json")["loss"] == pytest.approx(expected, rel=1e-5)


def _experiment(names, folder, fields):
    """Run what a page writes as an experiment, by the runner and with its checks."""
    module = types.ModuleType("experiments.mine")
    vars(module).update(names)
    config = ConfigDict({"experiment": "mine", "seed": 0, "precision": "float32"} | fields).lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "experiments.mine", module)
        patch.setenv("ATTNREG_COMPILATION_CACHE", "off")
        resolved = Resolved(config, Path("configs/mine.py"), "full", ())
        assert execute([Run(resolved, folder / "run")], Settings(checkpoint_seconds=0.0)) == 0


CHECKS = {
    "README.md": _readme,
    "CONTRIBUTING.md": _contributing,
    "docs/guides/accelerators.md": _accelerators,
    "docs/guides/bounds.md": _bounds,
    "docs/guides/compress.md": _compress,
    "docs/guides/fitting.md": _fitting,
    "docs/guides/icl.md": _icl,
    "docs/guides/many_devices.md": _many_devices,
    "docs/guides/models.md": _models,
    "docs/guides/one_layer.md": _one_layer,
    "docs/guides/real_heads.md": _real_heads,
    "docs/guides/recover.md": _recover,
    "docs/guides/runs.md": _runs,
    "docs/guides/start.md": _start,
    "docs/guides/sweeps.md": _sweeps,
}
