"""LR policy ranking: pure functions from trials to ranked policies.

The trials of one task, a dataset and a network, are grouped by policy over their seeds: mean and sample standard deviation, as in
the paper's Tables VII to IX.  Policies are ranked by metrics in order, by weights, or as Pareto fronts; those that the noise of
their seeds does not tell apart are tied.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Dict, NamedTuple, Optional, Tuple

from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import suggestion
from lrbench_caffe.trial import FINISHED, Trial

# The eight metrics by the names of a Summary's fields: whether more is better.
METRICS = {
    "ld": False,
    "iterations": False,
    "top1": True,
    "top5": True,
    "ac": True,
    "cd": False,
    "cdac": False,
    "n_params": False,
}
SIGNIFICANCE = 0.05
# Solver fields that change nothing about what is learnt.
IGNORED_SETTINGS = (
    "display",
    "snapshot",
    "snapshot_after_train",
    "snapshot_format",
    "debug_info",
    "solver_mode",
    "device_id",
    "average_loss",
    "test_initialization",
    "layer_wise_reduce",
)


class Spread(NamedTuple):
    """A metric over seeds: mean and sample standard deviation of n values; None where there are none, or only one."""

    mean: Optional[float]
    deviation: Optional[float]
    n: int


class Criterion(NamedTuple):
    """What to rank by: kind is "order", "weights" or "pareto"; weights has the metrics in order, 1 where no weight is given."""

    kind: str
    weights: Dict[str, float]


@dataclass(frozen=True)
class Ranked:
    """A policy in a ranking.

    trials: those that finished, one a seed; others: those that diverged, failed, were cut off or still run.  settings: what of the
    solver differs from other entries with it, as (name, value).  metrics: a Spread by metric; of a policy without a finished trial
    it says how far the others got.  rank counts from 1 (None: no finished trial); tied: the noise does not tell it from others of
    that rank.
    """

    policy: str
    function: str
    trials: Tuple[Trial, ...]
    others: Tuple[Trial, ...]
    metrics: Dict[str, Spread]
    settings: Tuple[Tuple[str, object], ...] = ()
    rank: Optional[int] = None
    tied: bool = False

    @property
    def label(self):
        """The policy, and the settings in which it differs from entries beside it."""
        return "  ".join([self.policy] + ["%s=%s" % item for item in self.settings])


def sort_by_top1(trials):
    """Trials with the highest Top-1 first, on a tie the one that reached it in fewer iterations; those without rows last."""
    return sorted(
        trials, key=lambda trial: (-trial.best.top1, trial.best.iteration) if trial.best else (1, 0)
    )


def group_by_task(trials):
    """{(dataset, network): its trials}, in the order in which the tasks first appear."""
    tasks = {}
    for trial in trials:
        tasks.setdefault((trial.setup.dataset, trial.setup.network), []).append(trial)
    return tasks


def parse_criterion(text):
    """The Criterion that a text names: "top1,iterations" (in order), "top1=3,iterations=1" (weights), "pareto:top1,iterations".

    "pareto" alone is the accuracy and its cost.  Raises InputError for what is no metric or no weight.
    """
    kind, names = "order", text
    if text.partition(":")[0] == "pareto":
        kind, names = "pareto", text.partition(":")[2] or "top1,iterations"
    weights = {}
    for part in names.split(","):
        name, given, weight = part.partition("=")
        name = name.strip()
        if name not in METRICS:
            raise InputError(
                "%r is no metric to rank by%s" % (name[:60], suggestion(name, METRICS))
            )
        if name in weights:
            raise InputError("%s is given twice in %r: give each metric once" % (name, text))
        weights[name] = _weight(name, weight) if given else 1.0
    given = names.count("=")
    if given and (kind == "pareto" or given != len(weights)):
        raise InputError(
            "%r mixes ways to rank: give all metrics a weight (top1=3,iterations=1), or none (top1,iterations)"
            % text
        )
    return Criterion("weights" if given else kind, weights)


def _weight(name, text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise InputError(
            "the weight %r of %s does not do: give a number above 0" % (text[:40], name)
        )
    return value


def rank(trials, by=Criterion("order", {"top1": 1.0})):
    """The policies of one task's trials as a list of Ranked, the best first; those without a finished trial are last, unranked.

    "order": by the first metric; where the noise does not tell policies apart, by the next.  "weights": by the weighted sum of the
    metrics, each scaled to 0 for the worst policy and 1 for the best.  "pareto": rank 1 is the front, rank 2 the front without
    these, and so on; a policy is behind another only if it is no better in any metric and worse in one by more than the noise.
    """
    entries = _grouped(trials)
    complete = [entry for entry in entries if entry.trials]
    complete.sort(key=lambda entry: (_loss(entry, "top1"), _loss(entry, "iterations"), entry.label))
    rest = [entry for entry in entries if not entry.trials]
    if by.kind == "order":
        scales = [
            lambda entry, name=name: (
                entry.metrics[name] if not METRICS[name] else _negative(entry.metrics[name])
            )
            for name in by.weights
        ]
        ranked = _in_order(complete, scales, 1)
    elif by.kind == "weights":
        ranked = _in_order(complete, [_score(complete, by.weights)], 1)
    else:
        ranked = _fronts(complete, list(by.weights))
    return ranked + sorted(rest, key=lambda entry: (_loss(entry, "top1"), entry.label))


def counted_trials(trials):
    """Those of a policy's trials that count: trained to their end, one for each seed; of one that was trained twice, the later."""
    found = {}
    for trial in sorted(trials, key=lambda trial: trial.started):
        if trial.state == FINISHED and trial.best:
            found[trial.setup.seed] = trial
    return list(found.values())


def spread(values):
    """The Spread of values, without those that are None."""
    values = [float(value) for value in values if value is not None]
    if not values:
        return Spread(None, None, 0)
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    return Spread(
        mean,
        math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)),
        len(values),
    )


def is_tied(one, other):
    """Whether the noise of the seeds does not tell two Spreads apart: Welch's t-test at 5 %.

    One seed alone is taken to vary as the other policy does; where both have only one nothing is known of the noise, and only
    equal values are alike.
    """
    if one.mean is None or other.mean is None:
        return one.mean is None and other.mean is None
    difference = abs(one.mean - other.mean)
    if difference <= 1e-12 * max(abs(one.mean), abs(other.mean)):
        return True
    noisy = [s for s in (one, other) if s.deviation is not None]
    if not noisy:
        return False
    parts = [
        (s.deviation if s.deviation is not None else noisy[0].deviation) ** 2 / s.n
        for s in (one, other)
    ]
    if not sum(parts):
        return False
    if len(noisy) == 2:  # Welch and Satterthwaite
        freedom = sum(parts) ** 2 / sum(part**2 / (s.n - 1) for part, s in zip(parts, (one, other)))
    else:
        freedom = noisy[0].n - 1
    from scipy.special import stdtr  # here, since the import takes a tenth of a second

    return 2 * stdtr(freedom, -difference / math.sqrt(sum(parts))) > SIGNIFICANCE


def pareto_front(entries, names):
    """Those of the ranked entries whose means no other's beat in all of the metrics."""
    entries = [entry for entry in entries if entry.trials]
    return [entry for entry in entries if not any(_ahead(other, entry, names) for other in entries)]


def _grouped(trials):
    """An unranked Ranked for each policy and solver settings, in the order in which they first appear."""
    groups = {}
    for trial in trials:
        settings = {
            name: _plain(value)
            for name, value in trial.setup.solver.items()
            if name not in IGNORED_SETTINGS
        }
        groups.setdefault((trial.policy, tuple(sorted(settings.items()))), []).append(trial)
    differing = set()
    for _, settings in groups:
        first = next(iter(groups))[1]
        differing.update(name for name, _ in set(settings) ^ set(first))
    return [
        _entry(policy, tuple(item for item in settings if item[0] in differing), members)
        for (policy, settings), members in groups.items()
    ]


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


def _entry(policy, settings, trials):
    counted = counted_trials(trials)
    others = [trial for trial in trials if not (trial.state == FINISHED and trial.best)]
    shown = [trial.summary for trial in counted or others if trial.best]
    metrics = {name: spread(getattr(summary, name) for summary in shown) for name in METRICS}
    return Ranked(policy, trials[0].function, tuple(counted), tuple(others), metrics, settings)


def _loss(entry, name):
    """A metric's mean as what is to be small; what has none comes last."""
    mean = entry.metrics[name].mean
    return math.inf if mean is None else -mean if METRICS[name] else mean


def _negative(found):
    return found if found.mean is None else found._replace(mean=-found.mean)


def _in_order(entries, scales, first):
    """Entries sorted by the first scale (a function to a Spread, small is good), the ties among them by the others."""
    if not scales:
        return [dataclasses.replace(entry, rank=first, tied=len(entries) > 1) for entry in entries]
    scale = scales[0]
    entries = sorted(
        entries, key=lambda entry: math.inf if scale(entry).mean is None else scale(entry).mean
    )
    ranked = []
    while entries:
        leader = scale(entries[0])
        size = 1
        while size < len(entries) and is_tied(leader, scale(entries[size])):
            size += 1
        ranked += _in_order(entries[:size], scales[1:], first + len(ranked))
        entries = entries[size:]
    return ranked


def _score(entries, weights):
    """The weighted score as a scale: seed by seed, so that it has a noise of its own."""
    ends = {}
    for name in weights:
        losses = [_loss(entry, name) for entry in entries if entry.metrics[name].mean is not None]
        ends[name] = (min(losses), max(losses)) if losses else (0.0, 0.0)

    def scale(entry):
        return spread(
            sum(weight * share(trial, name) for name, weight in weights.items())
            for trial in entry.trials
        )

    def share(trial, name):
        """0 for the best policy's mean, 1 for the worst's and for what is unknown."""
        value, (best, worst) = getattr(trial.summary, name), ends[name]
        if value is None:
            return 1.0
        return (
            ((-value if METRICS[name] else value) - best) / (worst - best) if worst > best else 0.0
        )

    return scale


def _ahead(one, other, names):
    """Whether one's means are nowhere worse and somewhere better."""
    pairs = [(_loss(one, name), _loss(other, name)) for name in names]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _fronts(entries, names):
    """Entries by their fronts.  Sorted first, a policy can only be behind those before it."""
    entries = sorted(entries, key=lambda entry: [_loss(entry, name) for name in names])
    ranked = []
    for entry in entries:
        ahead = [other for other in ranked if _ahead(other, entry, names)]
        beyond = [
            other.rank
            for other in ahead
            if not all(is_tied(other.metrics[name], entry.metrics[name]) for name in names)
        ]
        front = 1 + max(beyond, default=0)
        ranked.append(
            dataclasses.replace(entry, rank=front, tied=any(other.rank == front for other in ahead))
        )
    return sorted(ranked, key=lambda entry: entry.rank)
