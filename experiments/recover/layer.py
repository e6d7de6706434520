"""All heads of a real layer at once, from the sum of what they write, beside a tuned Adam."""

from typing import Any

from experiments.recover import report
from experiments.recover.data import load
from experiments.recover.jobs import jobs_of
from experiments.recover.race import Race
from experiments.runner.about import About, Metric
from experiments.runner.record import Record

ABOUT = About(
    "A whole layer from what it reads and writes",
    "fit_layer recovers all heads of a layer from the sum of what they write, in turn with a tuned minibatch Adam.",
    (
        Metric("heldout", "loss on the texts that decide when to stop"),
        Metric("test", "loss on texts that decided nothing"),
        Metric("seconds", "wall seconds of the first fit"),
        Metric("cpu_seconds", "CPU seconds of the first fit"),
        Metric("peer", "held-out loss of the tuned Adam, best of its rounds", path="peer.heldout", always=False),
        Metric("heads_found", "heads found, by the cosine of their logits", better="higher", always=False),
    ),
)

SHARED = "the documents of our fits; every process trains the peer"


def run(config: Any, record: Record) -> dict[str, Any]:
    """Recover the layer, match its heads with the true ones, where they are known, by their maps."""
    jobs, data = jobs_of(config, "outputs"), load(config, None)
    record.say(data.title)
    runs, best = Race(config, record, data, jobs, heads=len(data.like.Q)).run()
    return report.report(record, data, runs, best, "outputs")
