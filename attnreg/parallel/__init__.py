"""One fit over many devices and processes: meshes, what lies on them, and objectives whose rows are spread over one."""

from attnreg.parallel.mesh import (
    DATA,
    STARTS,
    Over,
    Starts,
    make_mesh,
    place,
    problem_specs,
    sharded,
    shared_mesh,
)
from attnreg.parallel.processes import agree, gathered
from attnreg.parallel.spread import Spread, SpreadLinearization, split, spread

__all__ = [
    "DATA",
    "STARTS",
    "Over",
    "Spread",
    "SpreadLinearization",
    "Starts",
    "agree",
    "gathered",
    "make_mesh",
    "place",
    "problem_specs",
    "sharded",
    "shared_mesh",
    "split",
    "spread",
]
