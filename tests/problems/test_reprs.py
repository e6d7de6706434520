"""What users print fits a few lines, says shapes, dtypes and values, and never the numbers of an array."""

import dataclasses
import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnreg
from attnreg.data.synthetic import Instance
from attnreg.fit import Fit, LayerFit, MapFit
from attnreg.fit.determined import Determined
from attnreg.problems import LayerRegression, LayerWeights, Rotary
from attnreg.problems.checks import pytree_dataclass
from attnreg.problems.one_layer import Unknowns
from attnreg.problems.reprs import WIDTH, compact
from attnreg.solvers import Counts, History
from tests.contract.docstrings import LEVEL_A


def fitted(kind, weights, events=300):
    trace = tuple((float(i), "gauss_newton", i, 0.1, 0.2) for i in range(events))
    return kind(weights, 1.25e-9, 2.5e-3, "tolerance", Determined(30, 3, 1, 288), 12.3456789, trace)


def problem_of(*sizes):
    A = np.ones((*sizes, 3), np.float32)
    return attnreg.AttentionRegression(A, A, np.full((*sizes, sizes[-1]), 1 / sizes[-1], np.float32))


def solved(status):
    rows = jnp.zeros(101)
    counts = Counts(*jnp.arange(4))
    return attnreg.Result(
        jnp.ones((3, 3)), jnp.float32(0.125), jnp.float32(1e-9), status, jnp.int32(7), counts, History(*[rows] * 4)
    )


def shown():
    problem = problem_of(2, 5)
    factored = attnreg.FactoredObjective(problem, rank=3)
    factors, weights = attnreg.Factors(*np.ones((2, 3, 3))), LayerWeights(*np.ones((3, 2, 5, 5)))
    unknowns = Unknowns(jnp.ones((9, 9)), jnp.ones((9, 9)))
    yield from [
        problem,
        attnreg.AttentionObjective(problem),
        factored,
        solved(jnp.int32(1)),
        factors,
        weights,
        unknowns,
    ]
    yield from [Instance(problem, unknowns.X), fitted(LayerFit, weights), fitted(MapFit, factors)]
    yield Fit(unknowns, 1e-12, True, "solved", 1.0, 1, 1, 1, ())
    yield LayerRegression(np.ones((2, 5, 4)), np.ones((2, 5, 4)), rotary=Rotary(2))


def test_what_users_print_fits_a_few_lines():
    for value in shown():
        text = repr(value)
        lines = text.splitlines()
        assert text.startswith(type(value).__name__ + "(")
        assert len(lines) <= 6, text
        assert max(map(len, lines)) <= WIDTH
        assert "Array(" not in text
        assert "[[" not in text


def test_a_problem_shows_shapes_dtypes_and_what_differs_from_the_default():
    A = np.ones((4, 2), np.float32)
    problem = attnreg.AttentionRegression(A, A, np.full((4, 4), 0.25, np.float32), loss="kl", ridge=0.5)
    arrays = "A1=float32[1,4,2], A2=float32[1,4,2], B=float32[1,4,4]"
    assert " ".join(repr(problem).split()) == f"AttentionRegression({arrays}, loss='kl', ridge=0.5)"
    plain = dataclasses.replace(problem, ridge=0.0, loss="normalized")
    assert repr(plain) == f"AttentionRegression({arrays})"


def test_a_result_says_loss_and_reason_in_words():
    text = " ".join(repr(solved(jnp.int32(attnreg.Status.MAX_STEPS))).split())
    assert "value=0.125, gradient_norm=1e-09, status=MAX_STEPS, steps=7, counts=Counts(values=0, gradients=1" in text
    assert "status=int32[2]" in repr(solved(jnp.ones(2, jnp.int32)))


def test_a_fit_says_losses_reason_and_how_many_events():
    text = " ".join(repr(fitted(LayerFit, LayerWeights(*np.ones((3, 2, 5, 5))))).split())
    for part in ("train=1.25e-09", "heldout=0.0025", "reason='tolerance'", "V=float64[2,5,5]", "trace=<300 entries>"):
        assert part in text


def test_tracers_and_odd_leaves_print():
    seen = []
    problem = problem_of(4)
    jax.eval_shape(lambda p: seen.append(repr(p)) or p.A1, problem)
    assert "A1=float32[1,4,3]" in seen[0]
    assert "ridge=float32[]" in seen[0]
    assert "A1=<object>" in repr(jax.tree.map(lambda _: Odd(), problem))


class Odd:
    def __repr__(self):
        return "line\nline"


Odd.__name__ = "object"


def test_a_class_keeps_the_repr_that_it_writes():
    @pytree_dataclass()
    class Named:
        x: int

        def __repr__(self):
            return "mine"

    assert repr(Named(1)) == "mine"


# Row functions return tuples that only objectives read, and rows import nothing of ours.
@pytest.mark.parametrize("package", [name for name in LEVEL_A if name != "attnreg.rows"])
def test_every_public_record_with_arrays_is_compact(package):
    module = importlib.import_module(package)
    classes = [found for found in (getattr(module, name) for name in module.__all__) if inspect.isclass(found)]
    for found in classes:
        kinds = " ".join(
            str(kind) for kind in vars(found).get("__annotations__", {}).values() if "Callable" not in str(kind)
        )
        record = hasattr(found, "_fields") or dataclasses.is_dataclass(found)
        if record and ("Array" in kinds or "ndarray" in kinds):
            own = found.__repr__ is compact or "compact" in found.__repr__.__code__.co_names
            assert own, f"{package}.{found.__name__} prints its arrays: it needs attnreg.problems.reprs.compact_repr"
