"""Reading compiled text, and, slow, what the real compilers make of our programs.

The slow tests fetch the compilers (1.4 GB): `python -m pytest -n 0 -m slow tests/accelerators`.
"""

import jax
import jax.numpy as jnp
import pytest

from tests.accelerators import bundles, kernels, spills
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


def test_trips_are_read_off_a_condition_that_only_counts():
    condition = """%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} constant(9)
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}

"""
    silent = TEXT.replace(', backend_config={"known_trip_count":{"n":"7"}}', "")
    text = silent.replace("ENTRY", condition + "ENTRY")
    assert (read(text).loops, read(text).cycles) == ((Loop(9, 2),), 95)
    assert read(silent).loops == (Loop(None, 2),)


def test_a_host_callback_and_float64_are_seen_in_a_program_that_has_them():
    def f(x):
        jax.debug.print("{x}", x=x)
        return x + 1

    program = read(jax.jit(f).lower(jnp.ones(3, "float64")).compile().as_text())
    assert program.float64
    assert program.callbacks


# Three bundles; a loop over a grid of 4 with two, and in it a loop of 5 with one, and one of one bundle that runs once.
SCHEDULE = """control target key start
LB: loop body
     0   :  { %1 = vsyncpa [#allocation4], 0 }
   0x1 LB: > { %2 = sphi %3, %4 }
   0x2 LB: >> { %5 = vadd %6, %7  ;;  %p8 = scmp.ge.s32.totalorder %s9, 5 /* loop exit test */ }
   0x7 LB: >> { %1 = pmov 1 /* materialized constant */ }
   0x3 PF: > { %p10 = scmp.ge.s32.totalorder %s11, 6 /* loop exit test */ }
   0x4   :  { %12 = vsyncpa [#allocation4], 1 }
   0x5   :  { %13 = halt }
"""


def test_cycles_of_a_kernel_are_bundles_times_trips(tmp_path):
    assert bundles.cycles(SCHEDULE) == 3 + 4 * (2 + 5 * 1 + 1)
    assert bundles.cycles(SCHEDULE.replace("%s9, 5", "%s9, %s2")) is None, "trips that the program decides"
    text = ' %vg.2 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={}\n'
    assert bundles.kernels(text) == ["vg.2"]
    (tmp_path / "17-vg.2-72-final_bundles.txt").write_text(SCHEDULE)
    (tmp_path / "17-vg.2-71-schedule-analysis_final_bundles.txt").write_text("")
    assert bundles.scheduled(tmp_path, ["vg.2"]) == 35
    assert list(tmp_path.iterdir()) == []
    assert bundles.scheduled(tmp_path, ["vg.2"]) is None


def test_spills_are_read_off_the_report_of_the_assembler():
    report = "ptxas info    : 0 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
    assert spills.stores(report + report) == 24
    assert spills.entry(".target sm_90a\n.visible .entry sweep_1(\n") == "sm_90a"
    assert spills.entry(".target sm_90a\n.visible .entry loop_fusion(\n") is None


def test_errors_of_kernels_are_measured_against_numpy():
    (name, pairs), *_ = kernels.found(12)
    assert name == "dense targets"
    assert all(mine <= kernels.WORSE * theirs + kernels.FLOOR < 1e-3 for mine, theirs in pairs)
    assert kernels.apart([jnp.full(2, jnp.nan)], [jnp.ones(2)]) == float("inf")


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
