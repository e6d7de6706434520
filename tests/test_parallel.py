"""Sharded over 8 virtual devices: the numbers of one device, and only sums travel."""

import pytest

from attnreg.solvers import Status
from tests.programs import reported
from tests.solvers import table

D = 4  # of tests/parallel_program.py
PACKED = (D * (D + 1) // 2) ** 2


@pytest.fixture(scope="module")
def report():
    return reported(8, "tests.parallel_program")


def test_every_quantity_equals_that_of_one_device(report):
    """Only the order of the sums over the 8·24 rows differs: at most one eps of the largest entry a row."""
    assert len(report["errors"]) == 12
    assert max(report["errors"].values()) < 8 * 24, report["errors"]


def test_one_all_reduce_of_the_derivatives_and_nothing_else_travels(report):
    expected = {
        "value": 8,
        "value_and_grad": 8 * (1 + D * D),
        "hessian": 8 * PACKED,
        "hvp": 8 * D * D,
    }
    for name, moved in report["moved"].items():
        assert set(moved) == {"all-reduce"}, (name, moved)
    assert report["moved"]["value"]["all-reduce"] == expected["value"]
    assert report["moved"]["value_and_grad"]["all-reduce"] == expected["value_and_grad"]
    # value and gradient may ride along where the compiler does not drop them
    assert expected["hessian"] <= report["moved"]["hessian"]["all-reduce"] <= expected["hessian"] + 8 * (1 + D * D)
    assert expected["hvp"] <= report["moved"]["hvp"]["all-reduce"] <= expected["hvp"] + 8 * (1 + D * D)


def test_what_cannot_be_split_is_refused_with_the_reason(report):
    mesh, documents, causal, over = report["refusals"]
    assert "has 3 places, but there are 8 devices" in mesh
    assert "1 is not a multiple of the 8 devices" in documents
    assert "give an explicit mask" in causal
    assert "must be one of 'documents', 'rows'" in over


def test_every_solver_takes_the_same_steps_on_one_device_and_on_eight(report):
    assert set(report["solves"]) == set(table.SOLVERS)
    for name, solve in report["solves"].items():
        alone, spread = solve["steps"]
        # Sums in another order move a stopping test by a step where hundreds are taken, never a warm-up's budget.
        assert abs(alone - spread) <= alone // 50, (name, solve)
        assert solve["gap"] < 1e-9, (name, solve)
        assert Status(solve["status"]) in (Status.CONVERGED, Status.MAX_STEPS), (name, solve)


def test_typed_keys_are_split_too(report):
    assert report["same_keys"]
