"""Attention-related regression in JAX.

A row function of the logits (`attnreg.rows`), lifted to the unknown matrix by the tensor trick (`attnreg.lift`), gives
an objective (`attnreg.objectives`); a solver (`attnreg.solvers`) takes an objective. The usual way in:

    >>> import jax
    >>> import attnreg
    >>> from attnreg.data.synthetic import attention_instance
    >>> problem, truth = attention_instance(jax.random.key(0), n=16, d=2)
    >>> result = attnreg.solve(attnreg.AttentionObjective(problem), tol=1e-3)
    >>> attnreg.describe(result.status)
    'the gradient fell below the tolerance'
"""

from attnreg.fit.identifiability import logit_distance
from attnreg.fit.solve import solve
from attnreg.objectives.attention import AttentionObjective
from attnreg.objectives.base import Objective
from attnreg.objectives.factored import FactoredObjective
from attnreg.objectives.factors import Factors
from attnreg.problems.attention import AttentionRegression, Teacher
from attnreg.problems.checks import ProblemError
from attnreg.problems.registry import register_loss
from attnreg.problems.vector import LinearRegression, SoftmaxRegression
from attnreg.solvers import Newton, NewtonCG, Optax, Result, Status, describe

# The one place that says so: pyproject.toml reads it here, and a test holds CITATION.cff to it.
__version__ = "0.1.0"

__all__ = [
    "AttentionObjective",
    "AttentionRegression",
    "FactoredObjective",
    "Factors",
    "LinearRegression",
    "Newton",
    "NewtonCG",
    "Objective",
    "Optax",
    "ProblemError",
    "Result",
    "SoftmaxRegression",
    "Status",
    "Teacher",
    "__version__",
    "describe",
    "logit_distance",
    "register_loss",
    "solve",
]
