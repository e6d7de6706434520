"""All heads of a real layer at once, from the sum of what they write, beside a tuned Adam."""

from typing import Any

from experiments.recover import report
from experiments.recover.data import load
from experiments.recover.jobs import jobs_of
from experiments.recover.race import Race
from experiments.runner.record import Record


def run(config: Any, record: Record) -> dict[str, Any]:
    """Recover the layer, match its heads with the true ones, where they are known, by their maps."""
    jobs, data = jobs_of(config, "outputs"), load(config, None)
    record.say(data.title)
    runs, best = Race(config, record, data, jobs, heads=len(data.like.Q)).run()
    return report.report(record, data, runs, best, "outputs")
