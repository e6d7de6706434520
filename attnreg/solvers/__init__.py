"""Solvers: each takes an objective and a start and returns a `Result`."""

from attnreg.solvers.base import Solver
from attnreg.solvers.gradient_descent import GradientDescent
from attnreg.solvers.implicit import implicit_solution
from attnreg.solvers.lbfgs import LBFGS
from attnreg.solvers.newton import Newton
from attnreg.solvers.newton_cg import NewtonCG
from attnreg.solvers.optax import Optax
from attnreg.solvers.result import MESSAGES, Counts, History, Result, Status, describe
from attnreg.solvers.sketched import SketchedNewton
from attnreg.solvers.state import State
from attnreg.solvers.verdict import settled

__all__ = [
    "LBFGS",
    "MESSAGES",
    "Counts",
    "GradientDescent",
    "History",
    "Newton",
    "NewtonCG",
    "Optax",
    "Result",
    "SketchedNewton",
    "Solver",
    "State",
    "Status",
    "describe",
    "implicit_solution",
    "settled",
]
