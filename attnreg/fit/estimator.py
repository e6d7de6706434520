"""`AttentionRegressor`: `fit_layer` behind the methods that scikit-learn's tools call."""

import dataclasses
from typing import Any, Self

import jax
import numpy as np
from jax.typing import ArrayLike

from attnreg.fit.coordinates import tokens_that_count, variation
from attnreg.fit.layer_fit import LayerFit
from attnreg.fit.recovery import fit_layer
from attnreg.problems.checks import ProblemError
from attnreg.problems.layer import LayerRegression
from attnreg.problems.rotary import Rotary


@dataclasses.dataclass(eq=False, kw_only=True)
class AttentionRegressor:
    """An attention layer as an estimator: `fit`, `predict`, `score`, `get_params`, `set_params`.

    A sample is a document, since its tokens attend one another: X is (k, n, d) and y is (k, n, c). So cross-validation
    and grids split documents. After `fit` the attribute `layer_` is the `LayerFit`, with the weights, and
    `n_features_in_` is d. scikit-learn is not needed; `clone`, `cross_val_score`, `GridSearchCV` take it where it is.

    Args:
        rank: width of queries and keys; None is d, which leaves `Q Kᵀ` free. heads: their outputs add up.
        value_rank, key_heads, rotary, scale, soft_cap, causal: as in `attnreg.fit.fit_layer`.
        tol: loss at which to stop. seconds: wall time after which a fit ends.
        random_state: seed of the start, a whole number.

    Precision: that of X, floating point.
    Cost: of `fit`, that of `attnreg.fit.fit_layer`; `predict` and `score` are one forward pass.
    Raises: ProblemError for data or options that do not fit, when they are used: `set_params` refuses names only.
    Source: the interface is scikit-learn's.

    Example:
        >>> import numpy as np
        >>> from attnreg.fit import AttentionRegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(6, 8, 3)).astype("float32")
        >>> y = X.mean(axis=1, keepdims=True) + 0 * X  # the head that attends to all tokens alike
        >>> head = AttentionRegressor(rank=1, tol=0.15, seconds=1e4).fit(X, y)
        >>> head.predict(X).shape, head.score(X, y) > 0.75
        ((6, 8, 3), True)
    """

    rank: int | None = None
    heads: int = 1
    value_rank: int | None = None
    key_heads: int | None = None
    rotary: Rotary | None = None
    scale: float | None = None
    soft_cap: float | None = None
    causal: bool = False
    tol: float = 1e-8
    seconds: float = 120.0
    random_state: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Weights for documents X (k, n, d) with outputs y (k, n, c); `mask` is True where a query may attend a key."""
        if np.ndim(X) < 2:
            raise ProblemError(f"X has shape {np.shape(X)}; it must be (k, n, d): documents, tokens, features")
        options: dict[str, Any] = self.get_params() | {"rank": np.shape(X)[-1] if self.rank is None else self.rank}
        key = jax.random.key(options.pop("random_state"))
        self.layer_: LayerFit = fit_layer(X, y, mask=mask, key=key, **options)
        self.n_features_in_: int = np.shape(X)[-1]
        return self

    def predict(self, X: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The outputs (k, n, c) for documents X (k, n, d)."""
        return self._fitted().predict(X, mask)

    def score(self, X: ArrayLike, y: ArrayLike, mask: ArrayLike | None = None) -> float:
        """R², a float: 1 less the squared error of the prediction relative to that of the mean output (c,)."""
        fit = self._fitted()
        problem = LayerRegression(X, y, mask, causal=fit.logits.causal)
        missed = np.asarray(fit.predict(X, mask) - problem.B, np.float64)[tokens_that_count(problem)[1]]
        return 1.0 - float(np.sum(missed**2)) / (variation(problem) or 1.0)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name; `deep` changes nothing, as none of them is an estimator."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Set options by name.

        Raises:
            ProblemError: for a name that is no option.
        """
        known = self.get_params()
        if unknown := [name for name in params if name not in known]:
            raise ProblemError(f"AttentionRegressor has no option {unknown[0]!r}; it has {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def _fitted(self) -> LayerFit:
        if hasattr(self, "layer_"):
            return self.layer_
        message = "this AttentionRegressor is not fitted yet: call fit(X, y) first"
        try:
            from sklearn.exceptions import NotFittedError
        except ImportError:
            raise ProblemError(message) from None
        raise NotFittedError(message)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator; called by nobody else."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True, single_output=False),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
            regressor_tags=RegressorTags(),
        )
