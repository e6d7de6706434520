"""Fits and training over 4 virtual devices: the numbers of one device, and what travels between them."""

import pytest

from tests.programs import reported


@pytest.fixture(scope="module")
def report():
    return reported(4, "tests.spread_program", "quick", seconds=1800)


@pytest.fixture(scope="module")
def slow_report():
    return reported(4, "tests.spread_program", "slow", seconds=1800)


def check_errors(errors, each):
    """Only the order of the sums over at most 8·24 rows differs: at most one eps of the largest entry a row."""
    for over in ("rows", "documents"):
        assert len([name for name in errors if f"over {over}" in name]) == each
    assert max(errors.values()) < 8 * 24, errors


def test_a_spread_objective_has_gradients_and_products_of_the_whole_one(report):
    check_errors(report["errors"], 2)


@pytest.mark.slow
def test_a_spread_objective_has_every_quantity_of_the_whole_one(slow_report):
    check_errors(slow_report["errors"], 7)


@pytest.mark.slow
def test_a_solver_on_the_host_takes_the_same_steps_on_a_spread_objective(slow_report):
    alone, shared = slow_report["steps"]["LBFGS"]
    assert alone == shared > 3


@pytest.mark.slow
def test_a_fit_from_maps_ends_where_that_of_one_device_ends(slow_report):
    """Both phases, to 1e-9: conjugate gradients and damping amplify the rounding of the sums."""
    for fit in slow_report["fits"]:
        assert fit["phases"] == ["gauss_newton", "logarithms"]
        assert fit["reason"] == "tolerance"
        assert fit["gap"] < 1e-9
        assert fit["heldout"][1] == pytest.approx(fit["heldout"][0], rel=1e-9)


def test_a_spread_layer_has_gradients_and_products_of_the_whole_one(report):
    """Masks and rotary positions go with their documents; sums over 8·12 rows."""
    assert len(report["layer"]) == 4
    assert max(report["layer"].values()) < 8 * 12, report["layer"]


@pytest.mark.slow
def test_a_fit_of_a_layer_ends_where_that_of_one_device_ends(slow_report):
    """Thousands of steps of Muon amplify the rounding of sums: both find the weights, not by the same path."""
    found = slow_report["layer_fits"]
    for end in found["ends"]:
        assert end["reason"] == "tolerance", found
        assert end["heldout"] < 1e-4
        assert "stochastic" in end["phases"]
    assert "6 documents of a layer's rows, which are not split, for 4 devices" in found["refused"]


def test_seeds_alone_travel_nowhere_and_documents_add_up_gradients(report):
    seeds, both = report["trainings"]
    assert seeds["shape"] == {"seeds": 4, "batch": 1}
    assert both["shape"] == {"seeds": 2, "batch": 2}
    assert seeds["moved"] == {}
    assert set(both["moved"]) == {"all-reduce"}
    # A step's loss and the gradient of the one run of a device, less the entries that are known to be zero; float64.
    assert 0 < both["moved"]["all-reduce"] <= 8 * (1 + both["weights"])


def test_training_on_a_mesh_is_training_on_one_device(report):
    """Thirty steps of Adam: 1000 eps of the largest entry for sums in another order."""
    for training in report["trainings"]:
        assert training["same_keys"]
        assert max(training["gaps"]) < 1000, training


def test_what_cannot_be_shared_is_refused_with_the_numbers(report):
    rows, causal, training, kept = report["refusals"]
    assert "3 documents of 23 rows each for 4 devices" in rows
    assert "3 documents of causal rows, which are not split, for 4 devices" in causal
    assert "3 runs and 30 documents a step do not divide by 4 devices" in training
    assert kept == "AttentionObjective"
