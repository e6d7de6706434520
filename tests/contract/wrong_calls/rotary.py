"""Rotary positions, shared keys, scale and soft cap: options that are none, and where they cannot be taken."""

import functools

import jax.numpy as jnp
import numpy as np

from attnreg import solve
from attnreg.fit import compare_layers, fit_attention, fit_layer, identifiability, logit_distance
from attnreg.objectives import AttentionObjective, FactoredObjective, LayerObjective, StackedObjective
from attnreg.parallel import problem_specs
from attnreg.problems import LayerRegression, Rotary
from tests.contract.wrong_calls.arrays import attention
from tests.contract.wrong_calls.recovery import MAPS, WEIGHTS, A, B
from tests.contract.wrong_calls.row import Wrong

OPTIONS = [
    (dict(width=3), r"rotary.width is 3; it must be even, as columns turn in pairs"),
    (dict(width=0), r"rotary.width is 0; it must be at least 2"),
    (dict(width=4.0), r"rotary.width is 4.0, a float; it must be a whole number"),
    (dict(width=4, base=0), r"rotary.base is 0; it must be above 0"),
    (dict(width=4, base="1e4"), r"rotary.base is '1e4', a str; it must be a number"),
    (dict(width=4, layout="pairs"), r"rotary.layout is 'pairs'; it must be one of 'half', 'interleaved'"),
    (dict(width=4, frequencies=[1.0]), r"rotary.frequencies has shape \(1,\); it must be \(2,\), one a pair"),
    (dict(width=4, frequencies="fast"), r"rotary.frequencies is 'fast', not an array of real numbers"),
    (dict(width=4, positions=3), r"rotary.positions has shape \(\); it must have an entry per query"),
    (dict(width=4, positions=[0.0, np.nan]), r"rotary.positions has 1 NaN or infinite entries"),
]
PROBLEM = functools.partial(LayerRegression, A, B)
PROBLEMS = [
    (dict(rotary=1e4), r"rotary is a float; it must be a Rotary, e.g. Rotary\(width=64, base=1e4\)"),
    (dict(rotary=Rotary(2, positions=np.arange(5))), r"rotary.positions has shape \(5,\); it must be \(2, 4\)"),
    (dict(rotary=Rotary(2, positions=np.ones((3, 4)))), r"rotary.positions has shape \(3, 4\); it must be \(2, 4\)"),
    (dict(scale=0.0), r"scale is 0.0; it must be above 0"),
    (dict(scale=np.ones(2)), r"scale has shape \(2,\); it must be a scalar"),
    (dict(soft_cap=-30.0), r"soft_cap is -30.0; it must be above 0"),
    (dict(soft_cap="30"), r"soft_cap is '30', a str; it must be a number"),
]
turned = functools.partial(attention, rotary=Rotary(2))
FITS = [
    (dict(rotary=PROBLEM(rotary=Rotary(2)).rotary), r"rotary is a Rotation; it must be a Rotary"),
    (dict(rotary=Rotary(4)), r"rank is 2, but rotary.width is 4; a head must have all columns that turn"),
    (dict(scale=-1.0), r"scale is -1.0; it must be above 0"),
    (dict(soft_cap=0), r"soft_cap is 0; it must be above 0"),
]

CALLS = [Wrong(f"Rotary({options})", functools.partial(Rotary, **options), words) for options, words in OPTIONS]
CALLS += [
    Wrong(f"LayerRegression: {i}", functools.partial(PROBLEM, **options), words)
    for i, (options, words) in enumerate(PROBLEMS)
]
CALLS += [
    Wrong(f"{fit.__name__}: {i}", functools.partial(fit, A, data, **(dict(rank=2) | options)), words)
    for fit, data in ((fit_layer, B), (fit_attention, MAPS))
    for i, (options, words) in enumerate(FITS)
]
CALLS += [
    Wrong(
        "positions of queries alone",
        lambda: attention(rotary=Rotary(2, positions=np.arange(4))),
        r"there are 4 queries and 5 keys; give rotary.key_positions too",
    ),
    Wrong(
        "turns of other data",
        lambda: attention(rotary=PROBLEM(rotary=Rotary(2)).rotary),
        r"rotary was made for other data: its cos_k is \(1, 4, 1\) float64, and must be \(1, 5, ·\) float64",
    ),
    Wrong("full X", lambda: AttentionObjective(turned()), r"take its factors: FactoredObjective\(problem, rank\)"),
    Wrong("solve in X", lambda: solve(turned()), r"the logits of a rotary head are not A1 X A2ᵀ for any X"),
    Wrong(
        "turns split over rows",
        lambda: problem_specs(turned(), over="rows"),
        r"rotary cannot be split over rows, whose positions it needs: split over documents",
    ),
    Wrong("narrow factors", lambda: FactoredObjective(turned(), 1), r"rank is 1, but rotary.width is 2"),
    Wrong(
        "stacked without turns",
        lambda: StackedObjective(attention()),
        r"problem.rotary is None; StackedObjective is for rotary heads, take AttentionObjective",
    ),
    Wrong("rest a number", lambda: StackedObjective(turned(), 1), r"rest is 1, a int; it must be True or False"),
    Wrong(
        "key_heads zero", lambda: LayerObjective(PROBLEM(), 2, 2, key_heads=0), r"key_heads is 0; it must be at least 1"
    ),
    Wrong(
        "key_heads that do not divide",
        lambda: fit_layer(A, B, rank=2, heads=3, key_heads=2),
        r"key_heads is 2; it must divide heads, 3: equally many queries share each",
    ),
    Wrong(
        "directions of a full X",
        lambda: identifiability(turned()),
        r"problem.rotary is set, and identifiability counts directions of a full X without it",
    ),
    Wrong(
        "directions under a cap",
        lambda: identifiability(attention(soft_cap=3.0)),
        r"problem.soft_cap is set, and identifiability counts directions of a full X without it",
    ),
    Wrong(
        "distance of a full X",
        lambda: logit_distance(turned(), jnp.ones((3, 2)), jnp.ones((3, 2))),
        r"Z is a \w+; problem.rotary is set, so it must be Factors\(Q, K\)",
    ),
    Wrong(
        "compare_layers with a base",
        lambda: compare_layers(WEIGHTS, WEIGHTS, A, rotary=1e4),
        r"rotary is a float; it must be a Rotary",
    ),
]
