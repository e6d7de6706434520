"""One head of a real layer from its outputs or its maps, beside a tuned Adam; optionally from fewer and more texts."""

from typing import Any

import numpy as np

from attnreg.data.layers import layer_maps
from attnreg.problems.checks import check_choice
from experiments.recover import report
from experiments.recover.data import TARGETS, load
from experiments.recover.jobs import jobs_of
from experiments.recover.race import Race
from experiments.runner.about import About, Metric
from experiments.runner.maps import maps
from experiments.runner.record import Record

ABOUT = About(
    "One head from what it reads and writes",
    "fit_layer recovers the weights of a head from its outputs or maps, in turn with a tuned minibatch Adam.",
    (
        Metric("heldout", "loss on the texts that decide when to stop"),
        Metric("test", "loss on texts that decided nothing"),
        Metric("seconds", "wall seconds of the first fit"),
        Metric("cpu_seconds", "CPU seconds of the first fit"),
        Metric("peer", "held-out loss of the tuned Adam, best of its rounds", path="peer.heldout", always=False),
    ),
)

SHARED = "the documents of our fits; every process trains the peer"


def run(config: Any, record: Record) -> dict[str, Any]:
    """Recover the head, compare it with the true one where that is known, and say what the data determine."""
    for name in (config.targets, *config.texts_targets):
        check_choice("targets", name, TARGETS)
    jobs, data = jobs_of(config, config.targets), load(config, config.data.head)
    record.say(data.title)
    runs, best = Race(config, record, data, jobs, heads=1).run()
    result = report.report(record, data, runs, best, config.targets)
    fitted = layer_maps(best, data.test, **data.logits)
    if data.true is not None:
        true = layer_maps(data.true, data.test, **data.logits)
    elif data.given is not None and "maps" in data.given["test"]:
        true = np.asarray(data.given["test"]["maps"], np.float64)
    else:
        return result
    title = f"{data.title}, a text that decided nothing; test loss {result['test']:.2g}"
    drawn = maps(np.asarray(true[0]), np.asarray(fitted[0]), title=title)
    record.figure("maps", drawn, caption="Maps of a text that decided nothing, and their difference.")
    return result | report.behind_token_0(true, fitted)
