"""attnreg: `python attnreg_solve.py data.npz METHOD`."""

import sys

import jax
import numpy as np

import attnreg

jax.config.update("jax_enable_x64", True)
data = np.load(sys.argv[1])
problem = attnreg.AttentionRegression(data["A"], data["A"], data["B"])
print(float(attnreg.solve(problem, method=sys.argv[2], tol=1e-8).value))
