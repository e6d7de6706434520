"""Solvers: each takes an objective and a start and returns a `Result`."""

from attnreg.solvers.first_order import GradientDescent, Optax
from attnreg.solvers.newton import Newton
from attnreg.solvers.newton_cg import NewtonCG
from attnreg.solvers.result import MESSAGES, Counts, History, Result, Status, describe
from attnreg.solvers.solve import METHODS, choose_method, make_solver, solve
from attnreg.solvers.solver import Solver, State

__all__ = [
    "MESSAGES",
    "METHODS",
    "Counts",
    "GradientDescent",
    "History",
    "Newton",
    "NewtonCG",
    "Optax",
    "Result",
    "Solver",
    "State",
    "Status",
    "choose_method",
    "describe",
    "make_solver",
    "solve",
]
