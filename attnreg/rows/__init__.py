"""Row functions: value, gradient and curvature of one row of logits, in closed form. One file per family of losses.

Which name stands for which function is written once, in `attnreg.problems.registry`.
"""

from attnreg.rows.curvature import Curvature, RankTwo, RowTerms
from attnreg.rows.kl import kl
from attnreg.rows.linear import linear, logit_regularizer
from attnreg.rows.normalized import normalized, softmax
from attnreg.rows.rescaled import cosh_rescaled, rescaled, sinh_rescaled

__all__ = [
    "Curvature",
    "RankTwo",
    "RowTerms",
    "cosh_rescaled",
    "kl",
    "linear",
    "logit_regularizer",
    "normalized",
    "rescaled",
    "sinh_rescaled",
    "softmax",
]
