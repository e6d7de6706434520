"""Synthetic instances, the frozen texts and the shipped head."""

import functools

import jax
import jax.numpy as jnp

from attnreg.data import example_layer, load_embedded_head, load_full_head
from attnreg.data.minilm.texts import passage, stream, windows
from attnreg.data.synthetic import attention_instance, vector_instance
from tests.contract.wrong_calls.row import Wrong, without_x64


def matrix(**options):
    return functools.partial(attention_instance, jax.random.key(0), **(dict(n=4, d=2) | options))


def vector(**options):
    return functools.partial(vector_instance, jax.random.key(0), **(dict(n=4, d=2) | options))


CALLS = [
    Wrong("n zero", matrix(n=0), r"n is 0; it must be at least 1"),
    Wrong("n a float", matrix(n=4.0), r"n is 4.0, a float; it must be a whole number"),
    Wrong("d negative", matrix(d=-2), r"d is -2; it must be at least 1"),
    Wrong("m zero", matrix(m=0), r"m is 0; it must be at least 1"),
    Wrong("d2 a string", matrix(d2="2"), r"d2 is '2', a str; it must be a whole number"),
    Wrong("documents zero", matrix(documents=0), r"documents is 0; it must be at least 1"),
    Wrong("rank zero", matrix(rank=0), r"rank is 0; it must be at least 1"),
    Wrong("rank too high", matrix(rank=3), r"rank is 3; it must be at least 1 and at most 2"),
    Wrong("noise negative", matrix(noise=-0.1), r"noise is -0.1; it must be at least 0"),
    Wrong("noise NaN", matrix(noise=float("nan")), r"noise is nan; it must be a finite number"),
    Wrong("logit_scale a string", matrix(logit_scale="1"), r"logit_scale is '1', a str; it must be a number"),
    Wrong("condition below one", matrix(condition=0.5), r"condition is 0.5; it must be at least 1"),
    Wrong("loss unknown", matrix(loss="softmax"), r"loss is 'softmax'; it must be one of normalized"),
    Wrong("ridge negative", matrix(ridge=-1.0), r"ridge is -1.0; it must be at least 0"),
    Wrong("weight a string", matrix(weight="1"), r"weight is '1', a str; it must be a number"),
    Wrong("dtype half", matrix(dtype=jnp.bfloat16), r"dtype is bfloat16; it must be float32 or float64"),
    Wrong("dtype integer", matrix(dtype=int), r"dtype is int64; it must be float32 or float64"),
    Wrong(
        "dtype no dtype",
        matrix(dtype="double precision"),
        r"dtype is 'double precision'; it must be float32 or float64",
    ),
    Wrong(
        "dtype float64 without x64",
        without_x64(matrix(dtype=jnp.float64)),
        r"dtype is float64; call jax.config.update\('jax_enable_x64', True\)",
    ),
    Wrong("unknown option", matrix(keys=3), "unexpected keyword argument 'keys'", TypeError),
    Wrong("vector: n zero", vector(n=0), r"n is 0; it must be at least 1"),
    Wrong("vector: d a flag", vector(d=True), r"d is True, a bool; it must be a whole number"),
    Wrong("vector: noise infinite", vector(noise=float("inf")), r"noise is inf; it must be a finite number"),
    Wrong("vector: loss unknown", vector(loss=None), r"loss is None; it must be one of normalized"),
    Wrong("vector: dtype", vector(dtype=jnp.float16), r"dtype is float16; it must be float32 or float64"),
    Wrong(
        "stream unknown",
        lambda: stream("fortunes"),
        r"text is 'fortunes'; it must be one of 'docs', 'docs_heldout', 'card'",
    ),
    Wrong(
        "windows of an unknown text",
        lambda: windows("fortunes", 64, 1),
        r"text is 'fortunes'; it must be one of 'docs'",
    ),
    Wrong("windows too long", lambda: windows("docs", 513, 1), r"n is 513; it must be at least 3 and at most 512"),
    Wrong("windows too short", lambda: windows("docs", 2, 1), r"n is 2; it must be at least 3 and at most 512"),
    Wrong(
        "windows of half a token", lambda: windows("docs", 64.5, 1), r"n is 64.5, a float; it must be a whole number"
    ),
    Wrong("no windows", lambda: windows("docs", 64, 0), r"count is 0; it must be at least 1"),
    Wrong(
        "windows from before the start", lambda: windows("docs", 64, 1, first=-1), r"first is -1; it must be at least 0"
    ),
    Wrong(
        "more windows than there are",
        lambda: windows("card", 512, 10**6),
        r"windows 0 to 999999 of 512 tokens were asked of text 'card', which has \d+",
    ),
    Wrong("a passage past the end", lambda: passage("card", 10**6, 64), r"start is 1000000; it must be at least 0 and"),
    Wrong("a passage of half a token", lambda: passage("docs", 0, 64.5), r"n is 64.5, a float; it must be a whole"),
    Wrong(
        "an example wider than the model", lambda: example_layer(width=385), r"width is 385; it must be at least 1 and"
    ),
    Wrong("full head in half precision", lambda: load_full_head(dtype="float16"), r"dtype is float16; it must be"),
    Wrong(
        "embedded head in half precision",
        lambda: load_embedded_head(dtype="float16"),
        r"dtype is float16; it must be float32 or float64",
    ),
    Wrong(
        "embedded head in no dtype",
        lambda: load_embedded_head(dtype="floats"),
        r"dtype is 'floats'; it must be float32 or float64",
    ),
]
