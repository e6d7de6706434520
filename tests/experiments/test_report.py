"""The page of a run, of several, and of a sweep: it escapes what it shows, repeats nothing and says what is missing."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments import report
from experiments.report import elements, plot
from experiments.runner.about import Metric
from experiments.runner.results import SWEEP
from experiments.runner.store import folder
from experiments.runner.store.encoding import write_json
from tests.experiments.test_past import ABOUT, run_folder

ATTACK = "<script>alert(1)</script>"


def sweep_folder(root, losses):
    """A sweep over rate and seed with a result for every loss that is not None."""
    tasks = []
    for i, loss in enumerate(losses):
        overrides = {"rate": 10.0 ** -(i // 2), "seed": i % 2}
        name = f"task-{i}"
        if loss is not None:
            run_folder(root / name, {"loss": loss, "part": {"one": i + 1, "two": 2 * i + 2}}, **overrides)
        tasks.append({"index": i, "overrides": overrides, "folder": name})
    write_json(root / SWEEP, {"config": "configs/x.py", "overrides": ["--config.n=3"], "tasks": tasks})
    return root


def test_the_page_escapes_what_it_shows(tmp_path):
    run = tmp_path / "a<b>"
    write_json(run / folder.CONFIG, {"note": ATTACK})
    write_json(run / folder.RESULT, {ATTACK: ATTACK})
    metric = Metric(ATTACK, ATTACK)._asdict()
    told = {"title": ATTACK, "summary": ATTACK, "metrics": [metric], "config": ATTACK, "overrides": [ATTACK]}
    write_json(run / folder.ABOUT, ABOUT | told | {"expected": {ATTACK: [None, 1.0]}})
    write_json(run / folder.CAPTIONS, {"tables/t": ATTACK, "figures/f": ATTACK})
    write_json(run / folder.ENVIRONMENT, [{"commit": ATTACK, "devices": {"kind": ATTACK}}])
    (run / folder.TABLES).mkdir()
    (run / folder.TABLES / "t.csv").write_text(f'"{ATTACK}"\n"{ATTACK}"\n')
    (run / folder.FIGURES).mkdir()
    plt.figure().savefig(run / folder.FIGURES / "f.png")
    plt.close("all")
    assert report.main([str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10
    assert "<title>&lt;script" in text
    assert "default-src 'none'" in text


def test_a_run_s_page_opens_with_what_was_asked_and_found(tmp_path):
    run = run_folder(tmp_path / "run", {"loss": 2.5e-3, "rate": 4.0}, n=3)
    assert report.main([str(run)]) == 0
    text = (run / "report.html").read_text()
    order = ["<h1>A title", "What was asked.", "0.0025", "not as expected: at most 0.001", "python -m experiments.run"]
    order += ["Files", 'href="result.json"', "Every field of the config"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_tables_repeat_nothing():
    rows = [("a", 1, 5.0, "same"), ("a", 2, 6.0, "same"), ("b", 2, 7.0, "same")]
    page = elements.table(("name", "n", "value", "unit"), rows, caption="What.")
    assert "In every row: unit same." in page
    assert page.count("<td>a</td>") == 1
    assert page.count("same") == 1
    assert page.count(">2</td>") == 2  # not leading: another name stands before it
    one = elements.table(("a", "b"), [(1, 2)])
    assert "In every row" not in one
    many = elements.table(("a", "b"), [(i, -i) for i in range(100)])
    assert "60 more rows are in the file" in many


def test_several_runs_stand_side_by_side(tmp_path):
    runs = [run_folder(tmp_path / name, {"loss": loss}, n=name) for name, loss in (("a", 0.5), ("b", 0.25))]
    assert report.main([*map(str, runs)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "run 2" in text
    assert text.index("0.5</td>") < text.index("0.25</td>")
    assert "<td>n</td><td>a</td><td>b</td>" in text
    assert 'href="a"' in text
    assert report.main([*map(str, runs), "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").exists()


def test_a_sweep_s_page_draws_lists_and_says_what_is_missing(tmp_path):
    root = sweep_folder(tmp_path / "s", [0.1, 0.2, 0.01, 0.02, None])
    assert report.main([str(root)]) == 0
    text = (root / "report.html").read_text()
    assert "4 of 5 tasks finished" in text
    assert "Mean over 2 runs that differ in seed with its 95% bootstrap band" in text
    assert text.count("data:image/png") == 1
    assert "--config.n=3 --workdir" in text
    assert "not begun" in text
    assert "<caption>part</caption>" in text  # results in groups, not a hundred columns
    assert text.count("<td>folder</td>") == 0
    with pytest.raises(AssertionError):
        assert report.main([str(sweep_folder(tmp_path / "t", [None]))]) == 0


def test_what_stands_along_the_axes():
    grid = [{"seed": s, "rate": r, "kind": k} for s in (0, 1) for r in (1.0, 2.0, 3.0) for k in "ab"]
    assert plot.axes_of(grid, ("seed", "rate", "kind")) == ("rate", "kind", ("seed",))
    assert plot.axes_of([{"seed": s} for s in (0, 1)], ("seed",)) == ("seed", "", ())
    assert plot.axes_of([{"kind": "a"}, {"kind": "b"}], ("kind",)) == ("kind", "", ())
    assert plot.axes_of([{"kind": "a"}], ("kind",)) is None
    x, runs = plot._runs([(2.0, 5.0), (1.0, 3.0), (1.0, 4.0)])
    assert x.tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(runs, [[3.0, 5.0], [4.0, math.nan]])


@pytest.mark.parametrize("field", ["kind", "parts"])
def test_words_and_tuples_are_drawn_too(field):
    values = {"kind": ("a", "b", "c"), "parts": (["x"], ["y"], ["x", "y"])}[field]
    overrides = [{field: value, "seed": seed} for value in values for seed in range(2)]
    drawn = plot.against(overrides, [1.0, 2.0, 3.0, 4.0, 5.0, None], Metric("loss", "l"), (field, "seed"))
    assert drawn.image.startswith(b"\x89PNG")
    assert "2 runs that differ in seed" in drawn.caption
