"""One-layer attention regression: `softmax(A1 X A2ᵀ) A3 Y ≈ B` in X and Y."""

from attnreg.one_layer.fit import Fit, Search, fit_one_layer
from attnreg.one_layer.objective import OneLayerObjective
from attnreg.one_layer.problem import OneLayerRegression, Unknowns
from attnreg.one_layer.variable_projection import VariableProjection

__all__ = [
    "Fit",
    "OneLayerObjective",
    "OneLayerRegression",
    "Search",
    "Unknowns",
    "VariableProjection",
    "fit_one_layer",
]
