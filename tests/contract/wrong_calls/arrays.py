"""Every array of every problem, given as what is no usable array."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from attnreg.problems import AttentionRegression, LinearRegression, OneLayerRegression, SoftmaxRegression, Teacher
from tests.contract.wrong_calls.row import Wrong, without_x64

N, M, D1, D2, D3, C, R = 4, 5, 3, 2, 6, 7, 2
SIZES = {"n": N, "m": M, "d1": D1, "d2": D2, "d3": D3, "c": C, "r": R, "d": D2}


class Sound:
    """A constructor with the arrays that it takes: name to letters."""

    def __init__(self, build: Callable[..., Any], **letters: str):
        self.build, self.letters = build, letters

    def array(self, name: str) -> np.ndarray:
        """A good array of that name."""
        return np.full([SIZES[letter] for letter in self.letters[name].split()], 0.25)

    def __call__(self, **changes: Any) -> Any:
        """Built from good arrays but for the changes."""
        return self.build(**({name: self.array(name) for name in self.letters} | changes))

    def shape(self, name: str) -> str:
        """What an array must be, as a regex."""
        return rf"\(…, {self.letters[name].replace(' ', ', ')}\)"


attention = Sound(AttentionRegression, A1="n d1", A2="m d2", B="n m")
layer = Sound(OneLayerRegression, A1="n d1", A2="m d2", A3="m d3", B="n c")
teacher = Sound(Teacher, Q="n r", K="m r")
softmax = Sound(SoftmaxRegression, A="n d", b="n")
linear = Sound(LinearRegression, A="n d", b="n")
PROBLEMS = {"attention": attention, "one layer": layer, "teacher": teacher, "softmax": softmax, "linear": linear}

NUMBERS = "it must be float32 or float64"
# What is wrong: how it is made of a good array, and the words with {name} and {shape} to be filled in.
SPOILED: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "is None": (lambda a: None, r"{name} is None; it must be an array {shape}"),
    "is a string": (lambda a: "abc", r"{name} is 'abc', a str, not an array of numbers; it must be an array {shape}"),
    "is a dict": (lambda a: {"x": 1}, r"{name} is \{{'x': 1\}}, a dict, not an array of numbers; it must be an array"),
    "holds objects": (lambda a: a.astype(object), r"{name} is array\(.*a ndarray, not an array of numbers"),
    "is ragged": (lambda a: [[1.0, 2.0], [3.0]], r"{name} is not an array \(.*inhomogeneous.*it must be an array {shape}"),
    "is integer": (lambda a: a.astype(int), rf"{{name}} has dtype int64; {NUMBERS}; pass .astype\(np.float32\)"),
    "is boolean": (lambda a: a > 0, rf"{{name}} has dtype bool; {NUMBERS}; pass .astype\(np.float32\)"),
    "is complex": (lambda a: a + 0j, rf"{{name}} has dtype complex128; {NUMBERS}"),
    "is half": (lambda a: a.astype(np.float16), rf"{{name}} has dtype float16; {NUMBERS}: sums over keys in fewer bits"),
    "is brain half": (lambda a: jnp.asarray(a, jnp.bfloat16), rf"{{name}} has dtype bfloat16; {NUMBERS}: sums over keys"),
    "is 8-bit": (lambda a: jnp.asarray(a, jnp.float8_e4m3fn), rf"{{name}} has dtype float8_e4m3fn; {NUMBERS}: sums over"),
    "is extended": (lambda a: a.astype(np.longdouble), rf"{{name}} has dtype float128; {NUMBERS}"),
    "is dates": (lambda a: a.astype("datetime64[s]"), rf"{{name}} has dtype datetime64\[s\]; {NUMBERS}"),
    "is masked": (lambda a: np.ma.masked_array(a, a > 0), r"{name} is a masked array, whose mask would be lost; fill it"),
    "has a NaN": (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.nan, a), r"{name} has 1 NaN or infinite"),
    "is infinite": (lambda a: np.inf * a, r"{name} has \d+ NaN or infinite entries of \d+; clean the data first"),
    "is a scalar": (lambda a: 1.0, r"{name} has shape \(\); it must be {shape}"),
    "is empty": (lambda a: a[:0], r"{name} has shape \(0.*: an empty axis; every axis must be at least 1"),
    "is float64 without x64": (lambda a: a, r"{name} has dtype float64, but JAX computes in float32 .*astype\(np.float32\), "
                                            r"or call jax.config.update\('jax_enable_x64', True\)"),
}  # fmt: skip


def _spoiled(kind: str, sound: Sound, name: str, what: str) -> Wrong:
    spoil, words = SPOILED[what]
    words = words.format(name=name, shape=sound.shape(name))
    call = functools.partial(sound, **{name: spoil(sound.array(name))})
    if "without x64" in what:
        # The other arrays are float32, so that this one is to blame.
        rest = {other: sound.array(other).astype(np.float32) for other in sound.letters if other != name}
        call = without_x64(functools.partial(call, **rest))
    return Wrong(f"{kind}: {name} {what}", call, words)


def _row(kind: str, name: str) -> list[Wrong]:
    return [_spoiled(kind, PROBLEMS[kind], name, what) for what in SPOILED]


# All of them for the arrays of the two problems, and a few for the rest: the checks are shared.
FEW = ("is None", "is integer", "has a NaN", "is a scalar", "is half", "is float64 without x64")
CALLS = [row for kind in ("attention", "one layer") for name in PROBLEMS[kind].letters for row in _row(kind, name)]
CALLS += [
    _spoiled(kind, PROBLEMS[kind], name, what)
    for kind in ("teacher", "softmax", "linear")
    for name in PROBLEMS[kind].letters
    for what in FEW
]
