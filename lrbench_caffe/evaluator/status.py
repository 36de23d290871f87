"""Where a search is, for its display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe import ranking
from lrbench_caffe.display.search import SearchStatus
from lrbench_caffe.errors import counted
from lrbench_caffe.evaluator.tuning_log import (
    KNOWN,
    MORE_SEEDS,
    RANGE,
    RECIPE,
    SHAPES,
    SHORTER,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.evaluator.tuning_log import TuningLog, Wanted

REASONS = {
    RANGE: "which constant rates train the net?",
    RECIPE: "a warm-up and half a cosine, from multiples of the best constant rate",
    KNOWN: "the best policies of the database",
    SHAPES: "other curves at the best rate, and at twice that rate",
    MORE_SEEDS: "more seeds for the best policies, then variants of the best one",
    SHORTER: "the same accuracy in fewer iterations",
}


def status(log: TuningLog, stage: str, wanted: Sequence[Wanted], budget: float) -> SearchStatus:
    """Describe where a search is.

    Args:
        log: The log before the round.
        stage: The stage of the round.
        wanted: What is trained; empty for a range test.
        budget: The iterations that the search may spend.
    """
    full, incumbent = log.task.max_iter, log.incumbent
    top1s = [
        top1
        for outcome in log.outcomes(full)
        if outcome.candidate == incumbent
        for top1 in outcome.top1s
    ]
    return SearchStatus(
        stage=stage,
        tried=_tried(wanted),
        why=wanted[0].why if len(wanted) == 1 else REASONS[stage],
        incumbent=str(incumbent.policy(full)) if incumbent else None,
        top1=ranking.spread(top1s) if top1s else None,
        spent=log.spent,
        budget=budget,
    )


def _tried(wanted: Sequence[Wanted]) -> str:
    if not wanted:
        return "constant rates"
    return counted(len(wanted), "training")
