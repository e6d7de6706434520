"""The contract every loss passes: its closed forms are those of its readable definition, whatever the data.

Errors are in units of eps × natural scale (`tests/oracles/scale.py`), entry by entry, against an oracle in extended
precision and against automatic differentiation. `pytest tests/contract/test_losses_contract.py -k worst -n 0 -s` prints
the worst error of each quantity over the grid sizes × targets.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnreg.problems import find_loss, loss_names, losses
from tests.contract import loss_cases as cases
from tests.oracles import rows, scale

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)
# Sums of up to 20 terms, a handful of operations each.
ALLOWED = 4.0

every_loss = pytest.mark.parametrize("loss", loss_names())
values = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from(cases.SIZES) | st.floats(1e-6, 1e3)
any_case = {
    "seed": seeds, "size": sizes, "targets": st.sampled_from(cases.TARGETS), "duplicated": st.booleans(),
    "allowed": st.sampled_from((0.3, 1.0)), "weight": st.sampled_from((0.0, 0.5)), "ridge": st.sampled_from((0.0, 0.3)),
}  # fmt: skip


def check(got, case, eps=EPS, allowed=ALLOWED):
    found = cases.errors(got, case, eps)
    assert max(found.values()) <= allowed, found


def run(case):
    return cases.closed_forms(case.problem, case.X, case.V, case.block_rows)


def test_the_table_has_a_row_for_every_loss():
    assert set(loss_names()) == set(rows.LOSSES) == set(QUICK)


@every_loss
def test_worst_error_over_the_grid(loss):
    worst_closed, worst_autodiff, apart = {}, {}, {}
    for size in cases.SIZES:
        for targets in cases.TARGETS:
            case = cases.draw(1, loss, size=size, targets=targets)
            closed, autodiff = run(case), cases.differentiated(case.problem, case.X, case.V)
            pairs = cases.expectations(case, EPS)
            for table, found in ((worst_closed, cases.errors(closed, case, EPS)),
                                 (worst_autodiff, cases.errors(autodiff, case, EPS))):  # fmt: skip
                for name, error in found.items():
                    table[name] = max(table.get(name, 0), error)
            for name, value in autodiff.items():
                unit = pairs[name][1].reshape(value.shape)
                apart[name] = max(apart.get(name, 0), scale.worst(closed[name], value, unit, EPS))
    for name, error in worst_closed.items():
        others = f" autodiff {worst_autodiff[name]:5.2f}, apart {apart[name]:5.2f}" if name in apart else ""
        print(f"worst error, eps x natural scale: {loss:13} {name:18} closed form {error:5.2f}{others}")
    assert max(worst_closed.values()) <= ALLOWED
    assert max(apart.values()) <= 2 * ALLOWED


@every_loss
@values
@given(**any_case, empty_rows=st.booleans())
def test_closed_forms_match_the_oracle(loss, **options):
    case = cases.draw(options.pop("seed"), loss, **options)
    check(run(case), case)


@every_loss
@values
@given(**any_case)
def test_float32(loss, **options):
    case = cases.draw(options.pop("seed"), loss, dtype=np.float32, **options)
    got = cases.second_order(case.problem, case.X, case.V, case.block_rows)
    assert {x.dtype for x in got.values()} == {np.dtype(np.float32)}
    check(got, case, EPS32)


# The quick suite gives each loss one degenerate shape; `-m slow` gives it all of them.
QUICK = {
    "normalized": "all ones",
    "rescaled": "one row",
    "cosh_rescaled": "one key",
    "sinh_rescaled": "one row",
    "linear": "more features than rows",
    "kl": "all ones",
}
SHAPES = [
    pytest.param(loss, shape, marks=() if QUICK[loss] == shape else pytest.mark.slow)
    for loss in loss_names()
    for shape in cases.SHAPES
    if shape != "uneven blocks"
]


@pytest.mark.parametrize(("loss", "shape"), SHAPES)
@values
@given(**any_case)
def test_degenerate_shapes(loss, shape, **options):
    case = cases.draw(options.pop("seed"), loss, shape=shape, **options)
    check(cases.second_order(case.problem, case.X, case.V, case.block_rows), case)


@every_loss
def test_causal_teacher_targets(loss):
    for seed in range(5):
        case = cases.draw_teacher(seed, loss)
        check(cases.second_order(case.problem, case.X, case.V, case.block_rows), case)


@every_loss
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_zero_at_the_truth(loss, dtype):
    eps = float(np.finfo(dtype).eps)
    for size in (1e-6, 1e-2, 1.0, 10.0):
        case = cases.draw(2, loss, size=size, targets="truth", allowed=1.0, weight=0.0, ridge=0.0, dtype=dtype)
        got, pairs = cases.second_order(case.problem, case.X, case.V, case.block_rows), cases.expectations(case, eps)
        kappa = 1 + 2 * np.max(scale.sigma(case.data.A1, case.X, case.data.A2))
        assert float(got["value"]) <= (ALLOWED * eps) ** 2 * kappa * pairs["value"][1]
        assert scale.worst(got["gradient"].ravel(), 0, pairs["gradient"][1], eps) <= ALLOWED


@every_loss
def test_vmap_over_problems_and_points(loss):
    batch = [cases.draw(seed, loss) for seed in range(3)]
    problems = jax.tree.map(lambda *x: jnp.stack(x), *(c.problem for c in batch))
    X, V = np.stack([c.X for c in batch]), np.stack([c.V for c in batch])
    got = jax.vmap(lambda p, x, v: cases.second_order(p, x, v, batch[0].block_rows))(problems, X, V)
    for i, case in enumerate(batch):
        check({name: value[i] for name, value in got.items()}, case)


@every_loss
def test_the_tensor_trick_form_is_the_matrix_form(loss):
    definition = find_loss(loss).definition
    case = cases.draw(3, loss, weight=0.0, ridge=0.0)
    A1, A2, B, mask = (x[0] for x in (case.data.A1, case.data.A2, case.data.B, case.data.mask))
    vectorized = losses.vectorized(definition)(jnp.asarray(case.X.ravel()), jnp.kron(A1, A2), jnp.asarray(B), mask)
    data = case.data._replace(**{name: getattr(case.data, name)[:1] for name in ("A1", "A2", "B", "mask", "weight")})
    unit = cases.expectations(case._replace(data=data), EPS)["value"][1]
    assert scale.worst(vectorized, definition(case.X, A1, A2, B, mask), unit, EPS) <= ALLOWED


@pytest.mark.parametrize("loss", ["rescaled", "cosh_rescaled", "sinh_rescaled"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_overflow_is_infinite_and_never_nan(loss, dtype):
    case = cases.draw(4, loss, dtype=dtype)
    program = cases.closed_forms if dtype == np.float64 else cases.second_order
    for factor in (1e2, 1e4, 1e30):
        X = (case.X * factor * 10).astype(dtype)
        got = program(case.problem, X, case.V, case.block_rows)
        assert all(np.isposinf(got[name]) for name in got if name.startswith("value"))
        assert not any(bool(jnp.any(jnp.isnan(x))) for x in got.values())
