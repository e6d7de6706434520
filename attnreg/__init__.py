"""Attention-related regression in JAX.

A row function of the logits (`attnreg.rows`), lifted to the unknown matrix by the tensor trick
(`attnreg.tensor_trick`), gives an objective (`attnreg.objectives`); a solver (`attnreg.solvers`) takes an objective.
The usual way in:

    >>> import jax
    >>> import attnreg
    >>> from attnreg.data.synthetic import attention_instance
    >>> problem, truth = attention_instance(jax.random.key(0), n=16, d=2)
    >>> result = attnreg.solve(attnreg.AttentionObjective(problem), tol=1e-3)
    >>> attnreg.describe(result.status)
    'the gradient fell below the tolerance'
"""

from attnreg.factored import FactoredObjective, Factors
from attnreg.identifiability import logit_distance
from attnreg.objectives import AttentionObjective, Objective
from attnreg.problems import AttentionRegression, LinearRegression, ProblemError, SoftmaxRegression, Teacher
from attnreg.solvers import Newton, NewtonCG, Optax, Result, Status, describe, solve

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
    "describe",
    "logit_distance",
    "solve",
]
