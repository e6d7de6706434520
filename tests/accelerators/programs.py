"""What a compiled program would launch, read off its text."""

import re
from collections.abc import Mapping
from typing import NamedTuple

# Instructions that cost no kernel of their own.
FREE = frozenset(
    {
        *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"),
        *("while", "call", "conditional", "opt-barrier", "add-dependency", "async-done", "copy-done"),
        *("all-reduce-done", "all-gather-done", "collective-permute-done"),
    }
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    """One line of a computation: what it does, and the whole line."""

    opcode: str
    line: str


class Loop(NamedTuple):
    """A loop: its trips (None when the program decides), and the kernels of one trip without those of inner loops."""

    trips: int | None
    kernels: int


class Program(NamedTuple):
    """What a program is made of. kernels: outside loops. cycles: the compiler's estimate, where it makes one."""

    kernels: int
    loops: tuple[Loop, ...]
    cycles: float | None
    collectives: dict[str, int]
    float64: bool
    callbacks: bool

    @property
    def launches(self) -> int | None:
        """Kernels in all; None where a number of trips is not known."""
        if any(loop.trips is None for loop in self.loops):
            return None
        return self.kernels + sum((loop.trips or 0) * loop.kernels for loop in self.loops)


def read(text: str) -> Program:
    """The program whose optimised HLO is `text`."""
    computations, entry = parse(text)
    loops: list[Loop] = []
    kernels, cycles = _walk(computations, entry, 1, loops)
    every = [i for lines in computations.values() for i in lines]
    collectives = {name: sum(i.opcode in (name, f"{name}-start") for i in every) for name in COLLECTIVES}
    return Program(
        kernels,
        tuple(loops),
        cycles if "estimated_cycles" in text else None,
        {name: count for name, count in collectives.items() if count},
        re.search(r"\bf64\[", text) is not None,
        any("callback" in i.line for i in every if i.opcode == "custom-call"),
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if line and not line[0].isspace():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if head:
                lines = computations.setdefault(head[2], [])
                entry = head[2] if head[1] else entry
            continue
        body = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = ", line)
        if body:
            # The opcode is the first word before a bracket that is no part of a shape or layout.
            opcode = re.search(r"(?<![\w\[{:(,])([a-z][a-z0-9\-]*)\(", line[body.end() :])
            lines.append(Instruction(opcode[1] if opcode else "", line))
    return computations, entry


def _trips(computations: Mapping[str, list[Instruction]], line: str) -> int | None:
    """Trips of a loop: as it says itself, or, on a TPU, where its condition is no more than `i < number`."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    lines = computations.get(condition[1], []) if condition else []
    if not lines or lines[-1].opcode != "compare" or "direction=LT" not in lines[-1].line:
        return None
    numbers = [re.search(r"s32\[\]\S* constant\((\d+)\)", i.line) for i in lines if i.opcode == "constant"]
    return int(numbers[0][1]) if len(numbers) == 1 and numbers[0] else None


def _walk(computations: Mapping[str, list[Instruction]], name: str, times: int, loops: list[Loop]) -> tuple[int, float]:
    """Kernels of one pass of a computation without those of its loops, which are added to `loops`; estimated cycles."""
    kernels, cycles = 0, 0.0
    for opcode, line in computations.get(name, []):
        kernels += opcode not in FREE
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
            cycles += float(estimate[1])
        if opcode == "while":
            count = _trips(computations, line)
            at, known = len(loops), times * (count or 1)
            loops.append(Loop(None, 0))
            inside, more = _walk(computations, re.search(r"body=%?([\w.\-]+)", line)[1], known, loops)  # type: ignore[index]
            loops[at] = Loop(None if count is None else known, inside)
            cycles += (count or 1) * more
        for called in re.findall(
            r"(?:to_apply|calls|branch_computations|true_computation|false_computation)=\{?([^,}]+)", line
        ):
            if opcode in ("call", "conditional"):
                inside, more = _walk(computations, called.strip(" %"), times, loops)
                kernels, cycles = kernels + inside, cycles + more
    return kernels, cycles
