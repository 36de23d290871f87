"""The explanation of a recommendation: its titles and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrbench_caffe import ranking
from lrbench_caffe.errors import counted
from lrbench_caffe.evaluator.recommendation import deciding_set

if TYPE_CHECKING:
    from lrbench_caffe.database.standings import Standing
    from lrbench_caffe.evaluator.query import Query
    from lrbench_caffe.evaluator.recommendation import Recommendation, TaskResults

LISTED_SEEDS = 10  # the most seeds that a sentence lists


def titles(recommendation: Recommendation) -> list[str]:
    """Return a title for each task of a recommendation, such as "LeNet on mnist"."""
    tasks = [(results.task.dataset, results.task.network) for results in recommendation.all_tasks]
    by_task = ranking.task_titles(tasks)
    return [by_task[task] for task in tasks]


def explanations(recommendation: Recommendation) -> list[list[str]]:
    """Explain the results of a recommendation.

    Args:
        recommendation: From :func:`recommend`.

    Returns:
        For each of its tasks, and then for each of its similar tasks, a list of sentences: why it
        is there, its evidence, its good rates, and the rates of its best policies.
    """
    sentences = [explain(recommendation, number) for number in range(len(recommendation.all_tasks))]
    if recommendation.same and not recommendation.has_enough_evidence:
        sentences[len(recommendation.tasks) - 1].append(
            "similar tasks follow"
            if recommendation.similar
            else "the database does not have a similar task"
        )
    return sentences


def explain(recommendation: Recommendation, number: int) -> list[str]:
    """Explain the results of one task of a recommendation.

    Args:
        recommendation: From :func:`recommend`.
        number: The position of the task, counted from 0, among all tasks of the recommendation.
    """
    results = recommendation.all_tasks[number]
    title = titles(recommendation)[number]
    if recommendation.same and number < len(recommendation.tasks):
        sentences = ["%s: the database has results for this task" % title]
    else:
        sentences = [_similarity_explanation(results, title, recommendation.query)]
    return sentences + _evidence_explanation(results) + _rates_explanation(results)


def _similarity_explanation(results: TaskResults, title: str, query: Query) -> str:
    reasons = [comparison.description for comparison in results.comparisons]
    if not query.dataset.shape:
        reasons.append("the input shape of %s is not known" % query.dataset.name)
    own_name = "%s on %s" % (query.network.name, query.dataset.name)
    if own_name == title and query.network.hash:
        own_name = "%s on %s" % (ranking.network_label(query.network), query.dataset.name)
    return "%s is %.0f %% similar to %s: %s" % (
        title,
        100 * results.similarity,
        own_name,
        "; ".join(reasons),
    )


def _evidence_explanation(results: TaskResults) -> list[str]:
    """What the best policy rests on, and whether that is little."""
    if not results.policies:  # they were deleted meanwhile
        return []
    sentences = ["its best policy is from %s" % evidence(results.policies[0])]
    if not results.has_enough_evidence:
        sentences.append("this is little evidence: %s" % ", and ".join(results.shortcomings[0]))
    return sentences


def _rates_explanation(results: TaskResults) -> list[str]:
    sentences = []
    if results.good_range:
        (low, high, best, _), count, max_iter, seeds = results.good_range
        length = "" if max_iter is None else " of %d iterations" % max_iter
        sentences.append(
            "its good constant rates go from %r to %r, best %r, from %d rates with trainings%s and"
            " %s"
            % (low, high, best, count, length, "one seed" if seeds == 1 else "%d seeds" % seeds)
        )
    if results.rates:
        sentences.append("the rates of its best policies go from %r to %r" % results.rates)
    return sentences


def evidence(standing: Standing) -> str:
    """Describe what the results of a policy rest on.

    >>> from lrbench_caffe.ranking import Spread
    >>> settings, top1 = {"max_iter": 600}, Spread(0.98, 0.01, 2)
    >>> evidence(standings.Standing("FIX(k0=0.1)", "FIX", settings, top1, 500.0, seeds=(1, 2)))
    '2 trainings of 600 iterations with seeds 1, 2'
    """
    count = standing.top1.n
    at_most = "at most " if "patience" in standing.settings else ""
    length = (
        "" if standing.max_iter is None else " of %s%d iterations" % (at_most, standing.max_iter)
    )
    seeds = ", ".join(map(str, standing.seeds[:LISTED_SEEDS]))
    if len(standing.seeds) > LISTED_SEEDS:
        seeds += ", ..."
    with_seeds = " with seed%s %s" % ("" if count == 1 else "s", seeds) if seeds else ""
    return counted(count, "training") + length + with_seeds


def sets_remarks(recommendation: Recommendation) -> list[str]:
    """Return a sentence for each set on which the policies of a recommendation are chosen."""
    sets = dict.fromkeys(
        (deciding_set(standing), standing.settings.get("report"))
        for results in recommendation.all_tasks
        for standing in results.policies
    )
    return [
        ranking.sets_sentence(select, select)
        if report is None
        else "chosen on the %s set, which has these numbers: `lrbench rank` has those on the %s set"
        % (select, report)
        for select, report in sets
    ]
