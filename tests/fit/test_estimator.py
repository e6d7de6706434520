"""The estimator does what scikit-learn's tools expect of one; scores and predictions against NumPy."""

import pickle
import sys

import numpy as np
import pytest

from attnreg.fit import AttentionRegressor, LayerFit
from attnreg.fit.determined import Determined
from attnreg.problems import LayerWeights, ProblemError

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone, is_regressor  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

# Those that need no data. A sample of ours is a document, so X has three axes: the others hand over matrices, and
# `check_estimator` runs none of them for an estimator whose tags say so.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
)


def outputs(A, Q, K, V):
    logits = A @ Q @ K.T @ np.swapaxes(A, -1, -2)
    maps = np.exp(logits - logits.max(-1, keepdims=True))
    return maps / maps.sum(-1, keepdims=True) @ A @ V


def documents(k=6, n=8, d=3, c=2, seed=0):
    rng = np.random.default_rng(seed)
    A, Q, K, V = (rng.normal(size=size) for size in ((k, n, d), (d, 1), (d, 1), (d, c)))
    return A, outputs(A, Q, K, V)


@pytest.fixture(scope="module")
def fitted():
    X, y = documents()
    head = AttentionRegressor(rank=1)
    # What `fit` leaves, which is a doctest of the class; a fit compiles for seconds.
    rng = np.random.default_rng(1)
    weights = LayerWeights(*(rng.normal(size=size) for size in ((1, 3, 1), (1, 3, 1), (1, 3, 2))))
    head.layer_ = LayerFit(weights, 0.5, float("nan"), "tolerance", Determined(12, 3, 1, 96), 1.0, ())
    head.n_features_in_ = 3
    return head, X, y


@pytest.mark.parametrize("name", CHECKS)
def test_the_checks_of_scikit_learn_that_apply(name):
    getattr(estimator_checks, name)("AttentionRegressor", AttentionRegressor(rank=1))


def test_check_estimator_runs_what_it_has_for_documents():
    with pytest.warns(Warning, match="Can't test estimator AttentionRegressor which requires input"):
        estimator_checks.check_estimator(AttentionRegressor())
    assert is_regressor(AttentionRegressor())


def test_predict_is_the_layer_and_score_is_r_squared(fitted):
    head, X, y = fitted
    weights = head.layer_.weights
    expected = outputs(X, weights.Q[0], weights.K[0], weights.V[0])
    scale = np.abs(expected).max()
    assert np.abs(head.predict(X) - expected).max() <= 200 * np.finfo(float).eps * scale
    ratio = np.sum((expected - y) ** 2) / np.sum((y - y.mean((0, 1))) ** 2)
    assert abs(head.score(X, y) - (1 - ratio)) <= 1000 * np.finfo(float).eps


def test_queries_that_attend_nothing_do_not_count(fitted):
    head, X, y = fitted
    mask = np.ones((6, 8, 8), bool)
    mask[:, 5:, :] = mask[:, :, 5:] = False
    garbage = y.copy()
    garbage[:, 5:] = 1e6
    expected = head.score(X[:, :5], y[:, :5])
    assert abs(head.score(X, garbage, mask) - expected) <= 1000 * np.finfo(float).eps


def test_it_is_fitted_pickled_and_cloned_as_others_are(fitted):
    head, X, _ = fitted
    check_is_fitted(head)
    again = pickle.loads(pickle.dumps(head))
    assert np.array_equal(again.predict(X), head.predict(X))
    copy = clone(head)
    assert copy.get_params() == head.get_params()
    with pytest.raises(NotFittedError, match="call fit"):
        copy.predict(X)
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    public = {name for name in vars(head) if name not in head.get_params()}
    assert public == {"layer_", "n_features_in_"}


def test_without_scikit_learn_it_says_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    with pytest.raises(ProblemError, match="not fitted yet: call fit"):
        AttentionRegressor().predict(np.ones((1, 2, 3)))


def test_a_name_that_is_no_option_is_refused():
    with pytest.raises(ProblemError, match="has no option 'ranks'; it has rank, heads"):
        AttentionRegressor().set_params(ranks=2)
    with pytest.raises(ProblemError, match=r"X has shape \(3,\); it must be \(k, n, d\)"):
        AttentionRegressor().fit(np.ones(3), np.ones(3))


@pytest.mark.slow
def test_cross_validation_and_a_grid_find_the_rank():
    """Documents are split, a rank-two head needs rank two, and scikit-learn's own loops see it."""
    rng = np.random.default_rng(1)
    A, Q, K, V = (rng.normal(size=size) for size in ((24, 16, 4), (4, 2), (4, 2), (4, 3)))
    y = outputs(A, Q, K, V)
    grid = GridSearchCV(AttentionRegressor(seconds=30, tol=1e-6), {"rank": [1, 2]}, cv=2).fit(A, y)
    assert grid.best_params_ == {"rank": 2}
    assert cross_val_score(AttentionRegressor(rank=2, tol=1e-6, seconds=30), A, y, cv=2).min() > 1 - 1e-4
