"""The global fit of a one-layer problem, and its search."""

import functools

import jax

from attnreg.fit import Search, fit_one_layer
from tests.contract.wrong_calls.arrays import attention, layer
from tests.contract.wrong_calls.row import Wrong

KEY = jax.random.key(0)
SEARCHES = [
    (dict(batch=0), r"batch is 0; it must be at least 1"),
    (dict(batch="16"), r"batch is '16', a str; it must be a whole number"),
    (dict(probe=0), r"probe is 0; it must be at least 1"),
    (dict(polish=6.5), r"polish is 6.5, a float; it must be a whole number"),
    (dict(randoms=-1), r"randoms is -1; it must be at least 0"),
    (dict(blind=-1), r"blind is -1; it must be at least 0"),
    (dict(scale=0.0), r"scale is 0.0; it must be above 0"),
    (dict(hopeless=None), r"hopeless is None, a NoneType; it must be a number"),
    (dict(tol=-1e-10), r"tol is -1e-10; it must be at least 0"),
    (dict(tol=float("nan")), r"tol is nan; it must be a finite number"),
    (dict(ridges=(0.1,)), r"ridges, steps and keep have 1, 4 and 4 entries; they must have one each a stage"),
    (dict(ridges=(), steps=(), keep=()), r"ridges, steps and keep have 0, 0 and 0 entries"),
    (dict(keep=(16, 16, 16, 0), randoms=0), r"keep ends with 0 and randoms is 0: no candidate would ever be refined"),
]
FITS = [
    ("seconds negative", dict(seconds=-1.0), r"seconds is -1.0; it must be at least 0"),
    ("seconds a string", dict(seconds="60"), r"seconds is '60', a str; it must be a number"),
    ("seconds NaN", dict(seconds=float("nan")), r"seconds is nan; it must be a finite number"),
    ("batches zero", dict(batches=0), r"batches is 0; it must be at least 1"),
    ("batches infinite", dict(batches=float("inf")), r"batches is inf, a float; it must be a whole number"),
    ("search a dict", dict(search={"batch": 16}), r"search is a dict; it must be a Search"),
    ("search a class", dict(search=Search), r"search is a type; it must be a Search"),
]

CALLS = [Wrong(f"Search({options})", functools.partial(Search, **options), words) for options, words in SEARCHES]
CALLS += [
    Wrong(f"fit_one_layer: {label}", functools.partial(fit_one_layer, KEY, layer(), **options), words)
    for label, options, words in FITS
]
CALLS += [
    Wrong(
        "fit_one_layer of a map",
        functools.partial(fit_one_layer, KEY, attention()),
        r"problem is a AttentionRegression; it must be a OneLayerRegression",
    ),
    Wrong(
        "fit_one_layer of nothing",
        functools.partial(fit_one_layer, KEY, None),
        r"problem is a NoneType; it must be a OneLayerRegression",
    ),
    Wrong(
        "Search of an unknown option",
        functools.partial(Search, starts=4),
        "unexpected keyword argument 'starts'",
        TypeError,
    ),
]
