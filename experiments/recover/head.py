"""One head of a real layer from its outputs or its maps, beside a tuned Adam; optionally from fewer and more texts."""

from typing import Any

import numpy as np

from attnreg.data.layers import layer_maps
from attnreg.problems.checks import check_choice
from experiments.recover import report
from experiments.recover.data import TARGETS, load
from experiments.recover.jobs import jobs_of
from experiments.recover.race import Race
from experiments.runner.record import Record


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
    record.figure("maps", report.maps(true[0], fitted[0], data.title))
    return result | report.behind_token_0(true, fitted)
