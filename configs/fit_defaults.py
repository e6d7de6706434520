"""Fields shared by the configs of `experiments.fit.map`; every knob is declared here."""

from ml_collections import ConfigDict


def fit_config(**changes) -> ConfigDict:
    """The declared fields with their defaults, and `changes` to top-level ones."""
    config = ConfigDict(
        dict(
            experiment="fit.map",
            seed=0,
            precision="float64",
            loss="normalized",  # normalized, rescaled, cosh_rescaled, sinh_rescaled, linear
            ridge=0.0,
            weight=0.0,  # W of the papers' regularizer ½‖W∘logits‖²; 0 is none
            rank=0,  # 0: the unknown is X; r: factors X = QKᵀ of rank r
            start_damping=10.0,  # of the spectral start of factors, relative to the mean curvature
            solver=dict(
                method="auto",  # auto, newton, newton_cg, lbfgs, adam, gradient_descent
                tol=1e-8,
                max_steps=200,
                seconds=600.0,
                newton=dict(damping=1e-3, curvature="auto"),
                newton_cg=dict(
                    curvature="auto",
                    forcing=0.1,
                    max_cg=200,
                    preconditioner_damping=0.1,
                    refresh=5,
                    cache="auto",
                ),
            ),
            compare=(),  # methods to run beside the main one
            compare_seconds=10.0,
            compare_full=False,  # compare in the full X even when the main unknown is factored
            learning_rate=0.01,  # Adam's
        )
    )
    config.update(changes)
    return config
