"""Fields shared by the configs of `experiments.fit`; every knob is declared here. No config itself."""

import dataclasses

from ml_collections import ConfigDict, config_dict

from attnreg.solvers import Newton, NewtonCG, Solver


def options(solver: type[Solver]) -> dict:
    """A solver's own options with their defaults, those of Python: what a config leaves alone means the same there."""
    fields = {field.name: field.default for field in dataclasses.fields(solver)}  # type: ignore[arg-type]
    unset = dict(warmup=config_dict.placeholder(int), coarse_dtype=config_dict.placeholder(str))
    return {name: unset.get(name, value) for name, value in fields.items() if name not in ("tol", "max_steps")}


def fit_config(**changes) -> ConfigDict:
    """The declared fields with their defaults, and `changes` to top-level ones."""
    config = ConfigDict(
        dict(
            experiment="fit.map",
            seed=0,
            precision="float64",
            loss="normalized",  # normalized, rescaled, cosh_rescaled, sinh_rescaled, linear, kl
            ridge=0.0,
            weight=0.0,  # W of the papers' regularizer ½‖W∘logits‖²; 0 is none
            rank=0,  # 0: the unknown is X; r: factors X = QKᵀ of rank r
            start_damping=10.0,  # of the spectral start of factors, relative to the mean curvature
            solver=dict(
                method="auto",  # auto, newton, newton_cg, lbfgs, adam, gradient_descent
                tol=1e-8,
                max_steps=200,
                seconds=600.0,
                newton=options(Newton),
                newton_cg=options(NewtonCG),
                adam=dict(learning_rate=0.01, steps=2000),  # the rate falls to 0 along a cosine over so many steps
            ),
            compare=(),  # methods to run beside the main one
            compare_seconds=10.0,
            compare_full=False,  # compare in the full X even when the main unknown is factored
        )
    )
    config.update(changes)
    return config
