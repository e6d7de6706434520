"""The data of each problem, and the losses as the literature poses them."""

from attnreg.problems.attention import AttentionRegression, LinearRegression, SoftmaxRegression, Teacher
from attnreg.problems.checks import ProblemError
from attnreg.problems.one_layer import OneLayerRegression, Unknowns

__all__ = [
    "AttentionRegression",
    "LinearRegression",
    "OneLayerRegression",
    "ProblemError",
    "SoftmaxRegression",
    "Teacher",
    "Unknowns",
]
