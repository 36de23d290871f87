"""What the database has for a task, or for a similar task, when a search begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from lrbench_caffe.database import standings
from lrbench_caffe.errors import InputError
from lrbench_caffe.evaluator import explanation, recommendation, similarity
from lrbench_caffe.evaluator.candidates import from_text
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import DIVERGED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lrbench_caffe.database import Store
    from lrbench_caffe.database.standings import Standing
    from lrbench_caffe.evaluator.recommendation import TaskResults
    from lrbench_caffe.trial import Setup, Trial

MIN_SIMILARITY = 0.5  # of a task whose results are used
NO_RESULTS = "the database has no results for this task or a similar one"
AMONG_SELECTED = " among those that --local or --origin selects"
OTHER_SET = (
    "the results of the database for this dataset are not used, because they were not chosen on "
    "the %s set"
)
POLICIES = 50  # of the best task, of which the best of each function is kept


class Prior(NamedTuple):
    """What the database has for a task, or for a similar task, when a search begins.

    Attributes:
        good: The good range of constant rates, or None.
        same_task: Whether the results are of the searched task itself.
        policies: The best policy of each function with its max_iter, the best one first.
        top1s: The Top-1 of each of these policies, a share of 1, as the mean of its seeds.
        diverged_rates: Constant rates of this task with which a training diverged.
        sentence: All this as a sentence.
    """

    good: ranges.Range | None = None
    same_task: bool = False
    policies: tuple[tuple[str, int], ...] = ()
    diverged_rates: tuple[float, ...] = ()
    sentence: str = NO_RESULTS
    top1s: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to what the database keeps of a study; its names are those of release 0.1."""
        return {
            "good": self.good,
            "same": self.same_task,
            "policies": self.policies,
            "diverged": self.diverged_rates,
            "words": self.sentence,
            "top1s": self.top1s,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Prior:
        """Convert from what the database keeps; early studies do not have all of it."""
        return cls(
            good=ranges.Range(*content["good"]) if content["good"] else None,
            same_task=content["same"],
            policies=tuple((policy, max_iter) for policy, max_iter in content["policies"]),
            diverged_rates=tuple(content.get("diverged", ())),
            sentence=content["words"],
            top1s=tuple(content.get("top1s", ())),
        )


def load(store: Store, setup: Setup, limit: int, origin: str | None = None) -> Prior:
    """Load what the database has for a task.

    Args:
        store: The database.
        setup: What the search trains.
        limit: Largest number of policies.
        origin: Where the trials were trained, as :meth:`lrbench_caffe.database.Store.trials`
            selects them; None for anywhere.

    Returns:
        What the database has; only a sentence if it has nothing for this task or a similar one.
    """
    nothing = Prior(sentence=NO_RESULTS + ("" if origin is None else AMONG_SELECTED))
    query = recommendation.query_from_setup(setup)
    try:
        results = standings.selectable(store, origin)
        found = recommendation.recommend(results, query, limit=POLICIES)
    except InputError:
        return nothing
    found = found._replace(tasks=tuple(filter(None, (_usable(r, setup) for r in found.tasks))))
    if not found.tasks:
        return Prior(sentence=OTHER_SET % setup.solver["select"])
    best = max(found.tasks, key=lambda results: (results.similarity, results.policies[0].top1.mean))
    if best.similarity < MIN_SIMILARITY:
        return nothing
    sentences = explanation.explain(found, found.tasks.index(best))
    like = similarity.reference(setup.solver, best.task.settings)
    policies = _best_of_each_function(best, like)[:limit]
    prior = Prior(
        good=best.good,
        same_task=found.same,
        policies=tuple((entry.policy, entry.settings["max_iter"]) for entry in policies),
        sentence="; ".join(sentences),
        top1s=tuple(cast("float", entry.top1.mean) for entry in policies),
    )
    if not found.same:
        return prior
    diverged = _diverged_constants(store, best, like, origin)
    prior = prior._replace(diverged_rates=_rates(diverged))
    shortest = recommendation.MIN_LENGTH * cast("int", setup.solver["max_iter"])
    long = _rates(trial for trial in diverged if trial.length >= shortest)
    return prior if _are_safe(prior.good, long) else _without_good_rates(prior)


def _are_safe(good: ranges.Range | None, diverged_rates: Iterable[float]) -> bool:
    """Whether no training diverged with a good rate up to the best one."""
    return not (good and any(good.low <= rate <= good.best for rate in diverged_rates))


def _without_good_rates(prior: Prior) -> Prior:
    sentence = (
        "%s; another training with one of the good constant rates diverged: they are tested again"
    )
    return prior._replace(good=None, sentence=sentence % prior.sentence)


def _usable(results: TaskResults, setup: Setup) -> TaskResults | None:
    """The results that a search with a validation set may use, None if there are none.

    What was chosen on another set of its dataset may have been chosen on the set that it reports.
    """
    select = setup.solver.get("select")
    if select is None or results.task.dataset.name != setup.dataset.name:
        return results
    kept = [
        n
        for n, standing in enumerate(results.policies)
        if standing.settings.get("select") == select
    ]
    if not kept:
        return None
    # The constant rates of the same network are those of the same set already.
    is_same_network = results.task.network.hash == setup.network.hash
    return results._replace(
        policies=tuple(results.policies[n] for n in kept),
        shortcomings=tuple(results.shortcomings[n] for n in kept),
        good_range=results.good_range if is_same_network else None,
    )


def _best_of_each_function(results: TaskResults, like: Mapping[str, Any]) -> list[Standing]:
    """List the best policy of each function whose good rates are those of these settings."""
    best: dict[str, Standing] = {}
    for standing in results.policies:
        max_iter = standing.settings.get("max_iter")
        if max_iter is None or not similarity.have_same_rates(standing.settings, like):
            continue
        candidate = from_text(standing.policy, max_iter)
        if candidate:
            best.setdefault(candidate.function, standing)
    return list(best.values())


def _diverged_constants(
    store: Store, results: TaskResults, like: Mapping[str, Any], origin: str | None
) -> list[Trial]:
    """List the trainings under a constant rate that diverged."""
    trials = store.trials(
        dataset=results.task.dataset.name,
        network=results.task.network.hash,
        function="FIX",
        best_only=True,
        origin=origin,
    )
    return [
        trial
        for trial in trials
        if trial.state == DIVERGED and similarity.have_same_rates(trial.setup.solver, like)
    ]


def _rates(constants: Iterable[Trial]) -> tuple[float, ...]:
    """The constant rates of trainings, in ascending order."""
    return tuple(sorted({cast("float", trial.parameters["k0"]) for trial in constants}))
