"""Solvers, `solve`, and what users call to fit."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import optax

from attnreg import solve
from attnreg.fit.continuation import normalized_first
from attnreg.fit.solve import make_solver
from attnreg.objectives import AttentionObjective, FactoredObjective, OneLayerObjective, jet_problem
from attnreg.objectives.sampled import sampled_hessian
from attnreg.solvers import LBFGS, GradientDescent, Newton, NewtonCG, Optax
from attnreg.solvers.sketched import SketchedNewton
from tests.contract.wrong_calls.arrays import D1, D2, N, attention, layer
from tests.contract.wrong_calls.row import Wrong

ADAM = optax.adam(1e-2)
full, factored, joint = AttentionObjective(attention()), FactoredObjective(attention(), 2), OneLayerObjective(layer())
START = jnp.zeros((D1, D2))

SOLVERS = {"Newton": Newton, "NewtonCG": NewtonCG, "LBFGS": LBFGS, "GradientDescent": GradientDescent}
SOLVERS |= {
    "SketchedNewton": functools.partial(SketchedNewton, sampled_hessian, samples=10),
    "Optax": functools.partial(Optax, ADAM),
}
# Options of every solver.
COMMON = [
    ("tol", "1e-3", r"tol is '1e-3', a str; it must be a number"),
    ("tol", -1e-3, r"tol is -0.001; it must be at least 0"),
    ("tol", math.nan, r"tol is nan; it must be a finite number"),
    ("tol", 1.0, r"tol is 1.0; it must be at least 0 and below 1"),
    ("tol", True, r"tol is True, a bool; it must be a number"),
    ("max_steps", -1, r"max_steps is -1; it must be at least 0"),
    ("max_steps", 10**30, r"max_steps is 10+; it must be at least 0 and at most 2\.1"),
    ("max_steps", 10.0, r"max_steps is 10.0, a float; it must be a whole number"),
    ("max_steps", None, r"max_steps is None, a NoneType; it must be a whole number"),
]
OWN = [
    ("Newton", "damping", -1.0, r"damping is -1.0; it must be at least 0"),
    ("Newton", "damping", 10**30, r"damping is 10+, more than JAX's whole numbers hold; write it as a float"),
    ("Newton", "damping", "auto", r"damping is 'auto', a str; it must be a number"),
    ("Newton", "damping", math.inf, r"damping is inf; it must be a finite number"),
    ("Newton", "curvature", "hessian", r"curvature is 'hessian'; it must be one of 'auto'"),
    ("Newton", "chord", 2.0, r"chord is 2.0; it must be at least 0 and at most 1"),
    ("Newton", "memory", 2.5, r"memory is 2.5, a float; it must be a whole number"),
    ("Newton", "memory", -1, r"memory is -1; it must be at least 0"),
    ("Newton", "warmup", "no", r"warmup is 'no', a str; it must be a whole number"),
    ("Newton", "warmup", -3, r"warmup is -3; it must be at least 0"),
    ("Newton", "coarse_dtype", "float16", r"coarse_dtype is 'float16'; it must be one of None, 'float32', 'float64'"),
    ("NewtonCG", "max_cg", 0, r"max_cg is 0; it must be at least 1"),
    ("NewtonCG", "max_cg", "10", r"max_cg is '10', a str; it must be a whole number"),
    ("NewtonCG", "forcing", 0.0, r"forcing is 0.0; it must be above 0 and below 1"),
    ("NewtonCG", "forcing", 1.5, r"forcing is 1.5; it must be above 0 and below 1"),
    ("NewtonCG", "preconditioner_damping", -1.0, r"preconditioner_damping is -1.0; it must be at least 0"),
    ("NewtonCG", "curvature", "gn", r"curvature is 'gn'; it must be one of 'auto', 'exact', 'gauss_newton'"),
    ("NewtonCG", "cache", "all", r"cache is 'all'; it must be one of 'auto', 'none', 'entries', 'blocks'"),
    ("NewtonCG", "refresh", 0, r"refresh is 0; it must be at least 1"),
    ("LBFGS", "memory", 0, r"memory is 0; it must be at least 1"),
    ("LBFGS", "memory", 2.5, r"memory is 2.5, a float; it must be a whole number"),
    ("GradientDescent", "step_size", 0.0, r"step_size is 0.0; it must be above 0"),
    ("GradientDescent", "step_size", "big", r"step_size is 'big', a str; it must be a number"),
    ("SketchedNewton", "samples", 0, r"samples is 0; it must be at least 1"),
    ("SketchedNewton", "seed", -1, r"seed is -1; it must be at least 0"),
    ("SketchedNewton", "safeguard", "yes", r"safeguard is 'yes', a str; it must be True or False"),
]


def labelled(solver, name, value):
    return f"{solver}({name}={value!r})"


CALLS = [
    Wrong(labelled(solver, name, value), functools.partial(build, **{name: value}), words)
    for solver, build in SOLVERS.items()
    for name, value, words in COMMON
]
CALLS += [
    Wrong(labelled(solver, name, value), functools.partial(SOLVERS[solver], **{name: value}), words)
    for solver, name, value, words in OWN
]
CALLS += [
    Wrong(
        f"{solver} with an unknown option",
        functools.partial(build, rtol=1e-3),
        "unexpected keyword argument 'rtol'",
        TypeError,
    )
    for solver, build in SOLVERS.items()
]
CALLS += [
    Wrong(
        f"{solver} from a transposed start",
        lambda build=build: build().run(full, jnp.zeros((D2, D1))),
        r"start has shape \(2, 3\); it must be \(3, 2\)",
    )
    for solver, build in SOLVERS.items()
]
CALLS += [
    Wrong(
        f"{solver} of a problem",
        lambda build=build: build().run(attention(), START),
        rf"objective is a AttentionRegression; {solver} needs an objective",
    )
    for solver, build in SOLVERS.items()
]
CALLS += [
    Wrong(
        "Optax of a name", lambda: Optax("adam"), r"optimizer is a str; it must be an optax optimiser, e.g. optax.adam"
    ),
    Wrong(
        "Optax of no known name",
        lambda: Optax.named("adamm"),
        r"optax has no optimiser 'adamm'; examples are 'adam' and 'lbfgs'",
    ),
    Wrong(
        "start of another precision",
        lambda: Newton().run(full, START.astype(jnp.float32)),
        r"start has dtype float32, the data have float64",
    ),
    Wrong("start a list", lambda: Newton().run(full, [0.0]), r"start is a list; it must be an array of shape \(3, 2\)"),
    Wrong("start of factors a matrix", lambda: Newton().run(factored, START), r"it must be Factors\(Q, K\)"),
    Wrong("start of a layer a matrix", lambda: NewtonCG().run(joint, START), r"it must be Unknowns\(X, Y\)"),
    Wrong(
        "host run of negative seconds",
        lambda: Newton().run_on_host(full, START, seconds=-1),
        r"seconds is -1; it must be at least 0",
    ),
    Wrong(
        "host run of seconds in words",
        lambda: Newton().run_on_host(full, START, seconds="1"),
        r"seconds is '1', a str; it must be a number",
    ),
    Wrong(
        "solve nothing",
        lambda: solve(None),
        r"problem is a NoneType; it must be an AttentionRegression, a OneLayerRegression or an objective",
    ),
    Wrong("solve arrays", lambda: solve(np.ones((3, 2))), r"problem is a ndarray; it must be an AttentionRegression"),
    Wrong(
        "solve by an unknown method",
        lambda: solve(full, method="sgd"),
        r"method is 'sgd'; it must be one of 'auto', 'newton'",
    ),
    Wrong(
        "solve by no method", lambda: solve(full, method=None), r"method is None; it must be one of 'auto', 'newton'"
    ),
    Wrong(
        "solve with an option of another method",
        lambda: solve(full, method="newton", learning_rate=0.1),
        r"method 'newton' has no option 'learning_rate'",
    ),
    Wrong(
        "auto with an option of one method",
        lambda: solve(full, max_cg=3),
        r"method 'auto' has no option 'max_cg'.*name the method",
    ),
    Wrong(
        "solve with a misspelt option",
        lambda: solve(full, maxsteps=3),
        r"no option 'maxsteps': did you mean 'max_steps'\?",
    ),
    Wrong(
        "solve with a wrong tolerance", lambda: solve(full, tol="1e-3"), r"tol is '1e-3', a str; it must be a number"
    ),
    Wrong(
        "solve from a wrong start",
        lambda: solve(full, jnp.zeros((2, 3))),
        r"start has shape \(2, 3\); it must be \(3, 2\)",
    ),
    Wrong(
        "make an unknown solver", lambda: make_solver("lm"), r"method is 'lm'; it must be one of 'newton', 'newton_cg'"
    ),
    Wrong(
        "make the automatic solver",
        lambda: make_solver("auto"),
        r"method is 'auto'; it must be one of 'newton', 'newton_cg'",
    ),
    Wrong(
        "make Adam with a wrong rate",
        lambda: make_solver("adam", learning_rate=-1.0),
        r"learning_rate is -1.0; it must be above 0",
    ),
    Wrong(
        "make Adam with an option of L-BFGS",
        lambda: make_solver("adam", memory_size=3),
        r"method 'adam' has no option 'memory_size'",
    ),
    Wrong(
        "make L-BFGS without memory",
        lambda: make_solver("lbfgs", memory_size=0),
        r"memory_size is 0; it must be above 0",
    ),
    Wrong(
        "continue another loss",
        lambda: normalized_first(Newton(), attention(), START),
        r"problem.loss is 'normalized'; normalized_first is for 'rescaled'",
    ),
    Wrong(
        "jet of a masked problem",
        lambda: jet_problem(layer(mask=np.ones((N, 1), bool))),
        r"a jet needs all rows to see the same keys, but the problem has a mask",
    ),
]
