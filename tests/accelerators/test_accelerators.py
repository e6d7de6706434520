"""Reading compiled text, and, slow, what the real compilers make of our programs.

The slow tests fetch the compilers (1.4 GB): `python -m pytest -n 0 -m slow tests/accelerators`.
"""

import jax
import jax.numpy as jnp
import pytest

from tests.accelerators.__main__ import compiled, faults
from tests.accelerators.cases import cases
from tests.accelerators.programs import Loop, read
from tests.accelerators.targets import TARGETS, fetch

TEXT = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"10"}
  %g = f32[8]{0:T(128)} custom-call(%f), custom_call_target="__cublas$gemm"
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %g)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %c = f32[8]{0} fusion(%a), kind=kLoop, calls=%other, backend_config={"estimated_cycles":"5"}
  %w = (s32[], f32[8]{0}) while(%t0), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %r = f32[8]{0} all-reduce(%c), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = f32[8]{0} get-tuple-element(%w), index=1
}
"""


def test_kernels_trips_cycles_and_collectives_are_read_off_the_text():
    program = read(TEXT)
    assert (program.kernels, program.loops, program.launches) == (2, (Loop(7, 2),), 16)
    assert program.cycles == 75
    assert program.collectives == {"all-reduce": 1}
    assert not program.float64
    assert not program.callbacks


def test_a_host_callback_and_float64_are_seen_in_a_program_that_has_them():
    def f(x):
        jax.debug.print("{x}", x=x)
        return x + 1

    program = read(jax.jit(f).lower(jnp.ones(3, "float64")).compile().as_text())
    assert program.float64
    assert program.callbacks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_case_can_be_lowered_and_has_its_own_name(dtype):
    every = list(cases(dtype))
    assert len({case.name for case in every}) == len(every)
    for case in every[:2]:
        jax.jit(case.function).lower(*case.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_every_case_compiles_for_the_target_and_keeps_its_budget(target):
    fetch(target)
    rows = list(compiled(target, "float32"))
    assert [row["name"] for row in rows] == [case.name for case in cases("float32")]
    assert [fault for row in rows for fault in faults(row, target, "float32")] == []
