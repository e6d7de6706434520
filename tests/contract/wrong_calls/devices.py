"""Meshes and what is spread over them; one device is enough to refuse."""

import functools

import jax
import numpy as np

from attnreg.parallel import make_mesh, place, problem_specs, sharded
from tests.contract.wrong_calls.arrays import N, attention
from tests.contract.wrong_calls.row import Wrong

COUNT = jax.device_count()


def mesh():
    return make_mesh({"data": COUNT})


def square(**options):
    return attention(A2=np.ones((N, 2)), B=np.ones((N, N)), **options)


def over(function, **options):
    return lambda: sharded(function, mesh(), **options)


CALLS = [
    Wrong(
        "mesh too large",
        lambda: make_mesh({"data": 7 * COUNT}),
        r"the mesh \{'data': \d+\} has \d+ places, but there (is|are) \d+ device",
    ),
    Wrong("mesh without axes", functools.partial(make_mesh, {}), r"axes is \{\}; it must name each axis and its size"),
    Wrong("mesh a number", functools.partial(make_mesh, 4), r"axes is 4; it must name each axis and its size"),
    Wrong(
        "mesh a list",
        functools.partial(make_mesh, ["data"]),
        r"axes is \['data'\]; it must name each axis and its size",
    ),
    Wrong(
        "axis of size zero", functools.partial(make_mesh, {"data": 0}), r"axes\['data'\] is 0; it must be at least 1"
    ),
    Wrong(
        "axis of half a device",
        functools.partial(make_mesh, {"data": 0.5}),
        r"axes\['data'\] is 0.5, a float; it must be a whole number",
    ),
    Wrong(
        "data placed on a mesh without a data axis",
        lambda: place(attention(), make_mesh({"model": COUNT}), problem_specs(attention())),
        r"mesh has the axes model; it must have an axis 'data'",
    ),
    Wrong(
        "specs over columns",
        lambda: problem_specs(square(), over="columns"),
        r"over is 'columns'; it must be one of 'documents', 'rows'",
    ),
    Wrong(
        "specs of causal rows",
        lambda: problem_specs(square(causal=True), over="rows"),
        r"causal=True cannot be split over rows",
    ),
    Wrong(
        "sharded over columns",
        over(lambda o: 0, over="columns"),
        r"over is 'columns'; it must be one of 'documents', 'rows'",
    ),
    Wrong(
        "sharded starts", over(lambda o: 0, starts="loop"), r"starts is 'loop'; it must be one of None, 'vmap', 'map'"
    ),
    Wrong(
        "sharded starts without their axis",
        over(lambda o: 0, starts="map"),
        r"mesh has the axes data; it must have an axis 'starts'",
    ),
    Wrong(
        "sharded without a data axis",
        lambda: sharded(lambda o: 0, make_mesh({"starts": COUNT})),
        r"mesh has the axes starts; it must have an axis 'data'",
    ),
]
