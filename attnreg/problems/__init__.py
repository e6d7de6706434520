"""The data of each problem, the losses as the literature poses them, and the table that lists them."""

from attnreg.problems.attention import AttentionRegression, Teacher
from attnreg.problems.checks import ProblemError
from attnreg.problems.layer import LayerRegression, LayerWeights
from attnreg.problems.one_layer import OneLayerRegression, Unknowns
from attnreg.problems.registry import Loss, find_loss, loss_names, register_loss, unregister_loss
from attnreg.problems.rotary import Rotary, Rotation
from attnreg.problems.vector import LinearRegression, SoftmaxRegression
from attnreg.problems.verify import LossReport, check_loss

__all__ = [
    "AttentionRegression",
    "LayerRegression",
    "LayerWeights",
    "LinearRegression",
    "Loss",
    "LossReport",
    "OneLayerRegression",
    "ProblemError",
    "Rotary",
    "Rotation",
    "SoftmaxRegression",
    "Teacher",
    "Unknowns",
    "check_loss",
    "find_loss",
    "loss_names",
    "register_loss",
    "unregister_loss",
]
