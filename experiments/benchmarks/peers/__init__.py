"""Existing solvers under one roof: scipy, optax, optimistix, jaxopt and a naive Newton, on the plain autodiff loss.

How each is treated, in its favour where there was a choice:

* it is given the loss divided by its unit, compiled, with the data as arguments; a new peer is one function that
  returns a `Peer` (protocol.py), on whatever pytree its cell has;
* tolerances of its own are off; the clock is CPU time, so that a busy machine fails nobody; compilation is free;
* **time to a tolerance** (`measure.prepare`): it is first run with a test of the gradient norm after every step,
  which finds how many steps it needs; timed is that number of steps in one compiled loop without any test. One that
  rounding stops short of the tolerance is timed to 100 times it. Every setting in the list runs, the best counts;
* **restarts** (`measure.hunt`): chunks of steps until the relative loss is small enough, a new draw when a run has
  stopped improving, until its seconds are over;
* **training** (`minibatch_adam`): batches of documents, a schedule over a number of steps that it is told; its rate and
  its start are chosen by whoever runs it (`experiments.recover.race`).
"""

from experiments.benchmarks.peers.compiled import (
    jaxopt_gauss_newton,
    jaxopt_lm,
    naive_newton,
    optax_lbfgs,
    optimistix_bfgs,
    optimistix_lbfgs,
    optimistix_lm,
    saddle_free_newton,
)
from experiments.benchmarks.peers.measure import Contender, Found, Prepared, contender, hunt, prepare
from experiments.benchmarks.peers.minibatch_adam import Setting, Training, minibatch_adam
from experiments.benchmarks.peers.protocol import Outcome, Peer, Steps, compiled
from experiments.benchmarks.peers.scipy_lbfgs import scipy_lbfgs

__all__ = [
    "Contender",
    "Found",
    "Outcome",
    "Peer",
    "Prepared",
    "Setting",
    "Steps",
    "Training",
    "compiled",
    "contender",
    "hunt",
    "minibatch_adam",
    "naive_newton",
    "optax_lbfgs",
    "optimistix_bfgs",
    "optimistix_lbfgs",
    "optimistix_lm",
    "peers",
    "prepare",
    "saddle_free_newton",
    "scipy_lbfgs",
]


def peers() -> list[Peer]:
    """Every peer with every setting that is tried for time to a tolerance."""
    return [
        scipy_lbfgs(10),
        scipy_lbfgs(30),
        optax_lbfgs(10),
        optax_lbfgs(30),
        jaxopt_gauss_newton(),
        jaxopt_lm("CG, damping 1e-6"),
        jaxopt_lm("CG, damping 1e-3"),
        jaxopt_lm("dense, cholesky"),
        optimistix_lm("QR"),
        optimistix_lm("Normal CG"),
        optimistix_lm("Normal CG tight"),
        optimistix_bfgs(),
        naive_newton(),
    ]
