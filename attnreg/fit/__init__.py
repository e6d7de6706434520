"""What users call: solve an objective, fit a layer, continue from an easier problem, ask what the data determine."""

from attnreg.fit.compare import HeadComparison, compare_layers
from attnreg.fit.compression import Compressed, compress_head, map_error, output_error
from attnreg.fit.continuation import normalized_first
from attnreg.fit.cuts import closed_forms
from attnreg.fit.estimator import AttentionRegressor
from attnreg.fit.from_maps import fit_attention
from attnreg.fit.identifiability import Identifiability, identifiability, logit_distance
from attnreg.fit.layer import Fit, Search, fit_one_layer
from attnreg.fit.layer_fit import LayerFit, MapFit
from attnreg.fit.recovery import fit_layer
from attnreg.fit.rotary_compression import CompressedGroup, RotaryGroup
from attnreg.fit.solve import METHODS, choose_method, make_solver, solve
from attnreg.fit.watch import Progress

__all__ = [
    "METHODS",
    "AttentionRegressor",
    "Compressed",
    "CompressedGroup",
    "Fit",
    "HeadComparison",
    "Identifiability",
    "LayerFit",
    "MapFit",
    "Progress",
    "RotaryGroup",
    "Search",
    "choose_method",
    "closed_forms",
    "compare_layers",
    "compress_head",
    "fit_attention",
    "fit_layer",
    "fit_one_layer",
    "identifiability",
    "logit_distance",
    "make_solver",
    "map_error",
    "normalized_first",
    "output_error",
    "solve",
]
