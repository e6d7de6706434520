"""Row functions: value, gradient and curvature of one row of logits, in closed form. One entry here per loss."""

from attnreg.rows.linear import linear, logit_regularizer
from attnreg.rows.normalized import normalized, softmax
from attnreg.rows.rescaled import cosh_rescaled, rescaled, sinh_rescaled

ROWS = {
    "linear": linear,
    "normalized": normalized,
    "rescaled": rescaled,
    "cosh_rescaled": cosh_rescaled,
    "sinh_rescaled": sinh_rescaled,
}

__all__ = [
    "ROWS",
    "cosh_rescaled",
    "linear",
    "logit_regularizer",
    "normalized",
    "rescaled",
    "sinh_rescaled",
    "softmax",
]
