"""Ranked policies: trials of one block, grouped by policy over their seeds and put in order.

Only comparable trials are ranked together: see :mod:`lrbench_caffe.ranking.blocks`. Each policy has
the mean and the sample standard deviation of its metrics over the seeds, as in Tables VII to IX of
the paper. Policies whose difference is within the noise of their seeds are tied. The noise of a
policy with one seed is unknown, so it is placed by its value.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Callable

from lrbench_caffe.ranking.blocks import Block, Settings, group_comparable, settings_text
from lrbench_caffe.ranking.criteria import METRICS, Criterion
from lrbench_caffe.ranking.noise import Spread, is_tied, spread
from lrbench_caffe.ranking.spreads import Spreads
from lrbench_caffe.trial import FINISHED, Trial

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


BY_TOP1 = Criterion("order", {"top1": 1.0})


@dataclass(frozen=True)
class Ranked:
    """A policy in a ranking.

    Attributes:
        policy: The policy's text.
        function: The name of its learning rate function.
        trials: The trials that count, one for each seed: see :func:`counted_trials`.
        others: The trials that do not count: those that are not finished or have no Top-1.
        metrics: The spread of each metric in METRICS over the counted trials, on the set that is
            reported. If no trial counts, it is the spread over the other trials, which shows how
            far they got.
        deciding: The same on the set that decides. Policies are ranked by these.
        settings: The solver settings (name, value) that differ between the blocks of the task.
        rank: The rank within the block, counted from 1; None if no trial counts.
        tied: Whether the noise of the seeds explains the difference to other entries of this rank.
            It is False for a policy with one seed, whose noise is unknown.
    """

    policy: str
    function: str
    trials: tuple[Trial, ...]
    others: tuple[Trial, ...]
    metrics: Mapping[str, Spread]
    deciding: Mapping[str, Spread]
    settings: Settings = ()
    rank: int | None = None
    tied: bool = False

    @property
    def label(self) -> str:
        """The policy and the settings that distinguish it from other entries of the ranking."""
        return "  ".join([self.policy] + [settings_text([item]) for item in self.settings])

    def with_trials(self, complete: Mapping[str, Trial]) -> Ranked:
        """Return the entry with trials in place of those with the same id."""
        trials = tuple(complete.get(trial.id, trial) for trial in self.trials)
        others = tuple(complete.get(trial.id, trial) for trial in self.others)
        measured = trials or others
        return dataclasses.replace(
            self,
            trials=trials,
            others=others,
            metrics=Spreads(measured),
            deciding=Spreads(measured, "best"),
        )

    @property
    def final_top1(self) -> Spread:
        """The spread of the Top-1 at the end of the trainings, on the set that is reported.

        It is that of the counted trials, or if no trial counts, of the other ones.
        """
        rows = filter(None, (trial.final for trial in self.trials or self.others))
        return spread(row.top1 for row in rows)

    @property
    def has_one_seed(self) -> bool:
        """Whether a single trial counts, so that the noise of the seeds is unknown."""
        return len(self.trials) == 1


Scale = Callable[[Ranked], Spread]  # what entries are compared by: the smallest mean is the best


def sort_by_top1(trials: Iterable[Trial]) -> list[Trial]:
    """Sort trials by their highest Top-1 on the set that decides, the best first.

    Of trials with the same Top-1, the one with the lower test loss comes first, as in
    :func:`rank`, then the one that took fewer iterations. Trials without a Top-1 come last.
    """

    def key(trial: Trial) -> tuple[float, float, int]:
        summary = trial.deciding_summary
        if not (summary and trial.best):
            return 1, math.inf, 0
        loss = math.inf if trial.best.test_loss is None else trial.best.test_loss
        return -summary.top1, loss, summary.iterations

    return sorted(trials, key=key)


def counted_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials of one policy that count: finished, with a Top-1, one for each seed.

    If a seed was trained more than once, the trial that started last counts. A trial that was
    trained here counts before imported ones, so an import cannot replace its result.
    """
    return _one_for_each_seed([trial for trial in trials if _counts(trial)])


def _one_for_each_seed(trials: list[Trial]) -> list[Trial]:
    trials = sorted(trials, key=lambda trial: (trial.origin is None, trial.started))
    return list({trial.setup.seed: trial for trial in trials}.values())


def rank(trials: Iterable[Trial], by: Criterion = BY_TOP1) -> list[Ranked]:
    """Rank policies, each block of comparable trials by itself.

    They are ranked by their metrics on the set that decides, which may be a validation set.

    Args:
        trials: The trials, each with at least its best row.
        by: The criterion. "order" ranks by the first metric. Ties, which are differences within
            the noise of the seeds, are broken by the next metric. "weights" ranks by the weighted
            sum of the metrics, each scaled from 0 for the best policy to 1 for the worst. "pareto"
            gives rank 1 to the Pareto front, rank 2 to the front of the remaining policies, and so
            on. There, a policy is behind another one only if none of its means is better and at
            least one is worse by more than the noise.

    Returns:
        An entry for each policy of each block, in the order of
        :func:`lrbench_caffe.ranking.group_comparable`. Within a block, the best comes first. Of
        entries with equal means, the one with the higher Top-1 comes first, then the one with the
        lower test loss, then the one that took fewer iterations. Entries without a counted trial
        come last and have no rank. A policy with one seed is placed by its value, behind the
        policies that are tied with a better one.
    """
    return [
        entry
        for block in group_comparable(trials)
        for group in _ranked_groups(block.trials, block.differences, by)
        for entry in group
    ]


def rank_block(block: Block, by: Criterion = BY_TOP1, first: int | None = None) -> list[Ranked]:
    """Rank the policies of one block, as :func:`rank` does.

    Args:
        block: The block.
        by: The criterion.
        first: Return only so many entries, and those that are tied with the last of them (None:
            all). Of tens of thousands, the first ones take much less time.

    Returns:
        The entries, the best first. They have no settings, because they are all of one block.
    """
    return _first(_ranked_groups(block.trials, (), by), first)


def _first(groups: Iterable[Sequence[Ranked]], count: int | None) -> list[Ranked]:
    """The entries of the first groups, as many groups as it takes to have a number of entries."""
    entries: list[Ranked] = []
    for group in groups:
        if count is not None and len(entries) >= count:
            break
        entries += group
    return entries


def _ranked_groups(
    trials: Iterable[Trial], settings: Settings, by: Criterion
) -> Iterator[Sequence[Ranked]]:
    """Rank entries; yield those that are tied by the first scale together."""
    entries = _group_by_policy(trials, settings)
    complete = [entry for entry in entries if entry.trials]
    if by.kind == "order":
        yield from _rank_by_scales(complete, [_metric_scale(name) for name in by.weights])
    elif by.kind == "weights":
        yield from _rank_by_scales(complete, [_weighted_scale(complete, by.weights)])
    else:
        yield _rank_by_fronts(sorted(complete, key=_order), list(by.weights))
    incomplete = [entry for entry in entries if not entry.trials]
    yield sorted(incomplete, key=lambda entry: (_loss(entry, "top1"), entry.label))


def _order(entry: Ranked) -> tuple[float, float, float, str]:
    """What decides about entries whose means by the criterion are equal.

    The loss distinguishes policies that classify the same number of samples correctly.
    """
    return _loss(entry, "top1"), _mean_test_loss(entry), _loss(entry, "iterations"), entry.label


def _mean_test_loss(entry: Ranked) -> float:
    """The mean test loss at the best rows, on the set that decides; infinite if it is unknown."""
    losses = [trial.best.test_loss for trial in entry.trials if trial.best]
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known and len(known) == len(losses) else math.inf


def pareto_front(entries: Iterable[Ranked], names: Collection[str]) -> list[Ranked]:
    """Return the entries that no other entry dominates in the metrics with these names.

    An entry dominates another one of its block if none of its means is worse and at least one is
    better. Entries without a counted trial are left out.
    """
    entries = [entry for entry in entries if entry.trials]
    fronts: dict[Settings, list[Ranked]] = {}
    # In this order, an entry can only be dominated by entries of the front before it.
    for entry in sorted(entries, key=lambda entry: [_loss(entry, name) for name in names]):
        front = fronts.setdefault(entry.settings, [])
        if not any(_dominates(other, entry, names) for other in front):
            front.append(entry)
    members = {id(entry) for front in fronts.values() for entry in front}
    return [entry for entry in entries if id(entry) in members]


def _counts(trial: Trial) -> bool:
    return trial.state == FINISHED and trial.best is not None


def _group_by_policy(trials: Iterable[Trial], settings: Settings) -> list[Ranked]:
    """An unranked entry for each policy, in the order of first appearance."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.policy, []).append(trial)
    return [_entry(policy, settings, members) for policy, members in groups.items()]


def _entry(policy: str, settings: Settings, trials: Sequence[Trial]) -> Ranked:
    finished: list[Trial] = []
    others: list[Trial] = []
    for trial in trials:
        (finished if _counts(trial) else others).append(trial)
    counted = _one_for_each_seed(finished)
    measured = counted or others
    return Ranked(
        policy,
        trials[0].function,
        tuple(counted),
        tuple(others),
        Spreads(measured),
        Spreads(measured, "best"),
        settings,
    )


def _loss(entry: Ranked, name: str) -> float:
    """The mean of a metric with its sign changed if larger is better; infinite if it is unknown."""
    mean = entry.deciding[name].mean
    if mean is None:
        return math.inf
    return -mean if METRICS[name] else mean


def _metric_scale(name: str) -> Scale:
    """The scale of a metric."""

    def scale(entry: Ranked) -> Spread:
        metric = entry.deciding[name]
        if METRICS[name] and metric.mean is not None:
            return Spread(-metric.mean, metric.deviation, metric.n)
        return metric

    return scale


def _weighted_scale(entries: Iterable[Ranked], weights: dict[str, float]) -> Scale:
    """The scale of a weighted sum of metrics: a sum for each seed, so that it has a spread."""
    limits = {}  # of the means, as losses: (best, worst)
    for name in weights:
        losses = [_loss(entry, name) for entry in entries if entry.deciding[name].mean is not None]
        limits[name] = (min(losses), max(losses)) if losses else (0.0, 0.0)

    def scaled(trial: Trial, name: str) -> float:
        """0 for the best policy's mean, 1 for the worst policy's mean and for an unknown value."""
        best, worst = limits[name]
        value: float | None = getattr(trial.deciding_summary, name)
        if value is None:
            return 1.0
        if worst <= best:
            return 0.0
        loss = -value if METRICS[name] else value
        return (loss - best) / (worst - best)

    def scale(entry: Ranked) -> Spread:
        return spread(
            sum(weight * scaled(trial, name) for name, weight in weights.items())
            for trial in entry.trials
        )

    return scale


def _rank_by_scales(
    entries: Iterable[Ranked], scales: Sequence[Scale]
) -> Iterator[Sequence[Ranked]]:
    """Rank entries by the first scale, and entries that are tied on it by the remaining scales."""
    rank = 1
    for group in _ties(_in_order(entries, scales[0])):
        yield _rank_ties(group, scales[1:], rank)
        rank += len(group)


def _rank_ties(group: Sequence[Ranked], scales: Sequence[Scale], rank: int) -> list[Ranked]:
    """Rank tied entries by the remaining scales; without any, they share a rank."""
    if not scales:
        return _share_rank(group, rank)
    pairs = [(scales[0](entry), entry) for entry in group]
    pairs.sort(key=_mean)
    ranked: list[Ranked] = []
    for smaller in _ties(pairs):
        ranked += _rank_ties(smaller, scales[1:], rank + len(ranked))
    return ranked


def _in_order(entries: Iterable[Ranked], scale: Scale) -> Iterator[tuple[Spread, Ranked]]:
    """Yield entries by their means, and those with equal means in the order of :func:`_order`.

    The latter takes most of the time, and the last of them may never be asked for.
    """
    pairs = sorted(((scale(entry), entry) for entry in entries), key=_mean)
    for _, equal in groupby(pairs, key=_mean):
        yield from sorted(equal, key=lambda pair: _order(pair[1]))


def _mean(pair: tuple[Spread, Ranked]) -> float:
    mean = pair[0].mean
    return math.inf if mean is None else mean


def _ties(pairs: Iterable[tuple[Spread, Ranked]]) -> Iterator[list[Ranked]]:
    """Divide sorted entries into the first and those that are tied with it, and so on.

    The ties of an entry end at the first entry that is worse by more than the noise. A single value
    does not end them, because it does not show whether it is worse. If the first is a single value
    itself, only equal values are tied with it, and they end at the first that differs.
    """
    following = iter(pairs)
    waiting: deque[tuple[Spread, Ranked]] = deque()  # read, and not in a group yet

    def unread() -> Iterator[tuple[Spread, Ranked]]:
        while True:
            waiting.extend(islice(following, 0 if waiting else 1))
            if not waiting:
                return
            yield waiting.popleft()

    for leader, first in unread():
        group, passed = [first], []
        for value, entry in unread():
            if is_tied(leader, value):
                group.append(entry)
                continue
            passed.append((value, entry))
            if value.n > 1 or leader.n == 1:
                break
        waiting.extendleft(reversed(passed))
        yield group


def _share_rank(entries: Sequence[Ranked], rank: int) -> list[Ranked]:
    """Give entries the same rank; those with several seeds are tied with one another."""
    several = sum(len(entry.trials) > 1 for entry in entries) > 1
    return [
        dataclasses.replace(entry, rank=rank, tied=several and len(entry.trials) > 1)
        for entry in entries
    ]


def _dominates(entry: Ranked, other: Ranked, names: Iterable[str]) -> bool:
    """Whether none of an entry's means is worse than the other's and at least one is better."""
    pairs = [(_loss(entry, name), _loss(other, name)) for name in names]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _rank_by_fronts(entries: Iterable[Ranked], names: Sequence[str]) -> list[Ranked]:
    """Rank entries by Pareto fronts."""
    import numpy as np  # imported here: other rankings do not need it

    # In this order, an entry can only be dominated by entries before it.
    ordered = sorted(entries, key=lambda entry: [_loss(entry, name) for name in names])
    losses = np.array([[_loss(entry, name) for entry in ordered] for name in names])
    fronts = np.zeros(len(ordered), dtype=int)
    ranked = []
    for n, entry in enumerate(ordered):
        values, before = losses[:, n : n + 1], losses[:, :n]
        dominates = (before <= values).all(axis=0) & (before < values).any(axis=0)
        dominating = np.flatnonzero(dominates)
        by_front = dominating[np.argsort(-fronts[dominating], kind="stable")]
        ahead = (m for m in by_front if not _tied_in_all(ordered[m], entry, names))
        rank = 1 + int(next((fronts[m] for m in ahead), 0))
        tied = len(entry.trials) > 1 and bool((fronts[dominating] == rank).any())
        fronts[n] = rank
        ranked.append(dataclasses.replace(entry, rank=rank, tied=tied))
    return sorted(ranked, key=lambda entry: entry.rank or 0)


def _tied_in_all(entry: Ranked, other: Ranked, names: Iterable[str]) -> bool:
    return all(is_tied(entry.deciding[name], other.deciding[name]) for name in names)
