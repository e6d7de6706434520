"""Many problems in one program: `lax.map` of a solver gives what the solver gives for each alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from attnreg.solvers import NewtonCG
from tests.solvers.table import objective, stack


def test_mapping_a_solver_over_stacked_problems_is_solving_each():
    each = [objective(problem) for problem in list(stack().values())[:3]]
    start = each[0].start()
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    solver = NewtonCG(tol=1e-8, max_steps=30)

    @jax.jit
    @chex.assert_max_traces(1)
    def fitted(problems):
        return jax.lax.map(lambda one: solver.run(one, start), problems)

    many = fitted(together)
    alone = [solver.run(one, start) for one in each]
    for name in ("status", "steps"):
        np.testing.assert_array_equal(getattr(many, name), [int(getattr(result, name)) for result in alone])
    assert len({int(result.counts.hvps) for result in alone}) > 1, "they end at different times"
    np.testing.assert_array_equal(many.counts.hvps, [int(result.counts.hvps) for result in alone])
    scale = float(jnp.max(many.history.value[:, 0]))
    np.testing.assert_allclose(many.value, [result.value for result in alone], rtol=0, atol=1e-12 * scale)
