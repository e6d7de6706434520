"""Objectives: value, gradient, Hessian, Hessian-vector products and preconditioner of a problem, in closed form."""

from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Costs, Linearization, Objective, SecondOrderObjective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.objectives.jets import JetObjective, jet_problem
from attnreg.objectives.known_values import KnownValues
from attnreg.objectives.layer import LayerObjective
from attnreg.objectives.one_layer import OneLayerObjective
from attnreg.objectives.pulled import Pulled
from attnreg.objectives.reduced import VariableProjection
from attnreg.objectives.stacked import StackedObjective

__all__ = [
    "AttentionObjective",
    "Costs",
    "FactoredObjective",
    "Factors",
    "JetObjective",
    "KnownValues",
    "LayerObjective",
    "Linearization",
    "Objective",
    "OneLayerObjective",
    "Pulled",
    "SecondOrderObjective",
    "StackedObjective",
    "VariableProjection",
    "jet_problem",
]
