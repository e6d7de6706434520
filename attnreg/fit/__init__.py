"""What users call: solve an objective, fit a layer, continue from an easier problem, ask what the data determine."""

from attnreg.fit.continuation import normalized_first
from attnreg.fit.identifiability import Identifiability, identifiability, logit_distance
from attnreg.fit.layer import Fit, Search, fit_one_layer
from attnreg.fit.solve import METHODS, choose_method, make_solver, solve

__all__ = [
    "METHODS",
    "Fit",
    "Identifiability",
    "Search",
    "choose_method",
    "fit_one_layer",
    "identifiability",
    "logit_distance",
    "make_solver",
    "normalized_first",
    "solve",
]
