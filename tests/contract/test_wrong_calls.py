"""Every wrong call is refused by a message that names the argument, what it has and what it must have.

A table, not a fuzz: each row says what must be said. The error is a ValueError (`ProblemError` and the like); only a
keyword that does not exist is Python's own TypeError. No message may come from inside JAX, and nothing is compiled.
"""

import importlib
import pkgutil

import pytest

from tests.contract import wrong_calls
from tests.contract.wrong_calls.row import Wrong

MODULES = [name for _, name, _ in pkgutil.iter_modules(wrong_calls.__path__) if name != "row"]
ROWS: list[tuple[str, Wrong]] = [
    (f"{name}: {row.label}", row)
    for name in MODULES
    for row in importlib.import_module(f"{wrong_calls.__name__}.{name}").CALLS
]
# Words of errors that only those understand who know what runs inside.
INNER = ("tracer", "broadcasting", "incompatible shapes", "jnp.", "dot_general", "operand")


def test_the_table_is_large_and_its_labels_differ():
    assert len(ROWS) >= 280
    assert len({label for label, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", [row for _, row in ROWS], ids=[label for label, _ in ROWS])
def test_a_wrong_call_is_refused_in_words(row):
    with pytest.raises(row.error, match=row.words) as found:
        row.call()
    text = str(found.value)
    assert len(text) < 400
    assert not [word for word in INNER if word in text.lower()]
