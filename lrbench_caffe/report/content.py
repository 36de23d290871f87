"""The content of a report as values for JSON: read from the database, ranked, thinned for drawing.

This is what :mod:`lrbench_caffe.report.page` puts into the page and its scripts draw. Its form::

    {"title": ..., "filters": [...], "created": seconds since the epoch,
     "criterion": {"kind": ..., "metrics": [...]},          # of ranking.Criterion
     "states": {"finished": 12, "running": 1, ...},
     "command": the command that made the report, or None,
     "studies": [{"name": ..., "states": "2 running, 3 finished"}, ...],
     "t_quantiles": of Student's t for 1, 2, ... degrees of freedom,
     "left_out": a sentence about tasks that the page leaves out, or "",
     "tasks": [{"id": ..., "title": ..., "dataset": ..., "network": ...,
                "max_iter": ..., "facts": [[name, value], ...],
                "trials": number of trials, "policies": [...],
                "best": {"label": ..., "text": ...} or None,
                "left_out": sentences about what is left out, or "",
                "range_curves": [...] or None, "problems": [...]}, ...]}

A task of the page is a block of comparable trials: trainings of another length, or with other
solver settings, are another task. A policy has its label, rank and metrics, the interval of its
mean Top-1, its learning rate curves, and a run for each trial with the trial's rows as lists.
Accuracies are shares of 1, as in the database. The text "sets" of a task says on which set numbers
are chosen and on which they are reported; "selected" of a policy is the first of these sets and the
mean Top-1 on it, None if they are the same; "deciding" has all metrics on it, by which policies are
ranked, None if they are the same as "metrics".

The content of a page is bounded, whatever the database holds: it lists the best policies of a task,
draws the best of these, and says how many it leaves out.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Mapping, Sequence, Tuple

from lrbench_caffe import ranking
from lrbench_caffe.database import studies
from lrbench_caffe.database.names import LOCAL
from lrbench_caffe.display import verdict
from lrbench_caffe.display.printable import printable, printable_lines
from lrbench_caffe.display.tables import metric_text, states_note
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import parse_or_none
from lrbench_caffe.ranking import noise, ranges
from lrbench_caffe.report import curves
from lrbench_caffe.report.page import prototxt_lines
from lrbench_caffe.trial import FINISHED

if TYPE_CHECKING:
    from lrbench_caffe.database import Store
    from lrbench_caffe.policies import Policy
    from lrbench_caffe.ranking import Block, Criterion, Ranked, Spread
    from lrbench_caffe.trial import Evaluation, Trial

    RowsById = Dict[str, Tuple[Evaluation, ...]]
    RankedByMetric = Dict[str, Dict[str, Ranked]]

MAX_TASKS = 50  # on a page, those with most trials
MAX_LISTED = 500  # policies in the table of a task
MAX_DRAWN = 60  # policies of a task that can be drawn
MIN_DRAWN = 6  # of each task, when the first tasks have used up MAX_DRAWN_IN_ALL
MAX_DRAWN_IN_ALL = 300
MAX_RUNS = 20  # trials of a policy
MAX_ROWS = 2000  # of a trial, beside the best and the last one
MAX_PROBLEMS = 200  # trials that ended early
POINTS = 600  # of a learning rate curve
PARETO_METRICS = ("top1", "iterations")
MAX_NAMES = 3  # of hosts and versions in the facts
TIME = "%Y-%m-%d %H:%M %Z"
MAX_STUDIES = 200  # in the list of studies, the newest
MAX_FREEDOM = 200  # degrees of freedom; from there on the quantiles hardly change
MIN_CONSTANT_RATES = 3  # for a range test


def load(
    store: Store,
    filters: dict[str, str | None],
    criterion: Criterion,
    progress: Callable[[str, int, int | None], None] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Read the content of a report from a database.

    Args:
        store: The open database.
        filters: Which trials to report, as keyword arguments of
            :meth:`lrbench_caffe.database.Store.trials`.
        criterion: How the policies are ranked.
        progress: Called with (what is being read, tasks done, None).
        command: The command that makes the report.

    Returns:
        The content, which can be written as JSON; see the description of this module.

    Raises:
        InputError: The study in the filters does not exist.
        DatabaseUnavailable: The database does not answer.
    """
    study = filters.get("study")
    waiting = 0 if study is None else _waiting_jobs(store, study)
    trials = store.results(**filters)
    counts = collections.Counter((trial.setup.dataset, trial.setup.network) for trial in trials)
    blocks = sorted(
        ranking.group_comparable(trials),
        key=lambda block: -counts[block.dataset, block.network],
    )
    tasks = []
    room = MAX_DRAWN_IN_ALL
    for number, block in enumerate(blocks[:MAX_TASKS]):
        if progress is not None:
            progress("reading tasks", number, None)
        tasks.append(_task(store, block, criterion, min(MAX_DRAWN, max(MIN_DRAWN, room))))
        room -= min(MAX_DRAWN, len(tasks[-1]["policies"]))
    names = [filters[name] for name in ("study", "dataset", "network") if filters.get(name)]
    return {
        "title": printable(names[0] or "") if names else "All trials",
        "filters": [_filter_text(*item) for item in sorted(filters.items())],
        "created": time.time(),
        "criterion": {"kind": criterion.kind, "metrics": list(criterion.weights)},
        "states": _state_counts(trials, waiting),
        "command": command,
        "studies": [] if any(filters.values()) else _studies(store),
        "t_quantiles": _t_quantiles(),
        "left_out": _left_out("tasks, those with most trials", len(tasks), len(blocks)),
        "tasks": tasks,
    }


def _studies(store: Store) -> list[dict[str, str]]:
    """The newest studies with their trials by state."""
    return [
        {
            "name": printable(study.name),
            "states": ", ".join("%d %s" % (n, state) for state, n in sorted(study.states.items())),
        }
        for study in studies.summaries(store)[:MAX_STUDIES]
    ]


@functools.lru_cache(maxsize=1)
def _t_quantiles() -> list[float]:
    """The quantiles of the test in :func:`lrbench_caffe.ranking.is_tied`."""
    from scipy.special import stdtrit  # imported here: it takes a tenth of a second

    freedoms = range(1, MAX_FREEDOM + 1)
    return [float("%.6g" % stdtrit(n, 1 - noise.SIGNIFICANCE / 2)) for n in freedoms]


def _filter_text(name: str, value: str | None) -> str:
    if name == "origin" and value == LOCAL:
        return "the origin here"
    return printable("%s %s" % (name, value))


def _left_out(things: str, shown: int, all_of_them: int) -> str:
    """A sentence about what the page leaves out; empty if it shows everything."""
    if shown >= all_of_them:
        return ""
    return "This page has %d of %d %s." % (shown, all_of_them, things)


def _waiting_jobs(store: Store, study: str) -> int:
    return sum(job.state is None for job in studies.jobs(store, study))


def _state_counts(trials: list[Trial], waiting: int) -> dict[str, int]:
    states = [trial.state for trial in trials]
    counts = {state: states.count(state) for state in sorted(set(states))}
    if waiting:
        counts["waiting"] = waiting
    return counts


def _task(store: Store, block: Block, criterion: Criterion, max_drawn: int) -> dict[str, Any]:
    dataset, network, trials = block.dataset, block.network, block.trials
    entries = ranking.rank_block(block, criterion)
    front = {entry.label for entry in ranking.pareto_front(entries, PARETO_METRICS)}
    on_front = [entry for entry in entries[MAX_LISTED:] if entry.label in front]
    listed = entries[:MAX_LISTED] + on_front[:MAX_LISTED]
    listed_trials = [trial for entry in listed for trial in entry.trials + entry.others]
    by_metric = {name: _ranked_by(name, listed_trials) for name in ranking.METRICS}
    drawn = _drawn(entries, max_drawn)
    rows = store.rows([trial.id for entry in drawn for trial in _runs(entry)])
    problems = [trial for trial in trials if trial.error and trial.state != FINISHED]
    most_runs = max(len(entry.trials + entry.others) for entry in drawn)
    left_out = (
        _left_out("policies, the best ones", len(listed), len(entries)),
        _left_out("trials that ended early", min(MAX_PROBLEMS, len(problems)), len(problems)),
        _left_out("trials of the policy with most trials", min(MAX_RUNS, most_runs), most_runs),
    )
    return {
        "id": printable(_block_id(block)),
        "title": printable(block.title),
        "dataset": printable(dataset.name),
        "network": printable(network.name),
        "max_iter": block.max_iter,
        "facts": _facts(block),
        "trials": len(trials),
        "best": _best(entries, criterion),
        "policies": [_policy(entry, rows, front, by_metric) for entry in listed],
        "left_out": " ".join(filter(None, left_out)),
        "range_curves": _range_curves(entries, rows),
        "problems": [_problem(trial) for trial in problems[:MAX_PROBLEMS]],
        "sets": printable(_sets(trials)),
    }


def _best(entries: Sequence[Ranked], criterion: Criterion) -> dict[str, str] | None:
    """The label of the best policy and what there is to say about it; None without one."""
    best = verdict.of_ranking(entries, criterion)
    return best and {"label": printable(best.entry.label), "text": printable(best.text)}


def _facts(block: Block) -> list[list[object]]:
    """What a reader has to know to repeat the trials, each with its name."""
    dataset, trials = block.dataset, block.trials
    settings = dict(trials[0].setup.solver)
    max_iter, batch_size = settings.pop("max_iter", None), settings.pop("batch_size", None)
    return [
        ["network", "%s (%s)" % (printable(block.network.name), block.network.hash[:8])],
        ["dataset", printable(dataset.name)],
        ["shape of a sample", ranking.shape_text(dataset.shape)],
        ["train samples", dataset.train_samples],
        ["test samples", dataset.test_samples],
        ["classes", trials[0].setup.classes],
        ["iterations", max_iter],
        ["batch size", batch_size],
        ["solver", printable(ranking.settings_text(sorted(settings.items())))],
        ["host", _listed(trial.host for trial in trials)],
        ["BLAS", _listed(trial.blas for trial in trials)],
        ["framework", _listed("%s %s" % _framework(trial) for trial in trials)],
        ["trained", _period(trials)],
    ]


def _framework(trial: Trial) -> tuple[str, str]:
    return trial.setup.framework.name, trial.setup.framework.version


def _listed(names: Iterable[str | None]) -> str:
    """Different names, the most frequent first, and how many more there are."""
    counts = collections.Counter(printable(name) for name in names if name)
    most = [name for name, _ in counts.most_common(MAX_NAMES)]
    more = len(counts) - len(most)
    return ", ".join(most) + (" and %d more" % more if more else "")


def _period(trials: Sequence[Trial]) -> str:
    """From the first start to the last end in the user's zone."""
    started = min(trial.started for trial in trials)
    ended = max(trial.ended or trial.started for trial in trials)
    return " to ".join(time.strftime(TIME, time.localtime(t)) for t in (started, ended))


def _block_id(block: Block) -> str:
    """A text that identifies a block, whatever other blocks there are, as a live page grows."""
    settings = sorted(block.trials[0].setup.solver.items())
    text = repr((block.dataset, block.network.name, block.network.hash, settings))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _ranked_by(metric: str, trials: Sequence[Trial]) -> dict[str, Ranked]:
    """The policies ranked by a single metric, by their labels."""
    criterion = ranking.Criterion("order", {metric: 1.0})
    return {entry.label: entry for entry in ranking.rank(trials, criterion)}


def _drawn(entries: list[Ranked], count: int) -> list[Ranked]:
    """The entries whose rows the page holds: the best, and constant rates for the range test."""
    constant = [entry for entry in entries[count:] if entry.function == "FIX"]
    return entries[:count] + constant[:count]


def _runs(entry: Ranked) -> tuple[Trial, ...]:
    """The trials of a policy that the page holds."""
    return (entry.trials + entry.others)[:MAX_RUNS]


def _problem(trial: Trial) -> dict[str, Any]:
    return {
        "policy": printable(trial.policy),
        "seed": trial.setup.seed,
        "state": trial.state,
        "error": printable(trial.error or ""),
    }


def _policy(
    entry: Ranked, rows: RowsById, front: set[str], by_metric: RankedByMetric
) -> dict[str, Any]:
    ranks = {name: ranked[entry.label] for name, ranked in by_metric.items()}
    final = {"final_top1": entry.final_top1}
    return {
        "policy": printable(entry.policy),
        "label": printable(entry.label),
        "note": states_note(entry.others).strip(" ()"),
        "function": entry.function,
        "prototxt": printable_lines(prototxt_lines(entry.policy)),
        "rank": entry.rank,
        "tied": entry.tied,
        "seeds": len(entry.trials),
        "interval": entry.metrics["top1"].interval if entry.trials else None,
        "on_front": entry.label in front,
        "metrics": _spreads({**entry.metrics, **final}),
        "deciding": None
        if entry.deciding == entry.metrics
        else _spreads({**entry.deciding, **final}),
        "ranks": {name: [ranked.rank, ranked.tied] for name, ranked in ranks.items()},
        "rate_curves": _rate_curves(entry, rows),
        "runs": [_run(trial, rows.get(trial.id, ())) for trial in _runs(entry)],
        "selected": _selected(entry, entry.trials + entry.others),
    }


def _spreads(metrics: Mapping[str, Spread]) -> dict[str, list[float | int | str | None]]:
    """The mean, the deviation and the number of seeds of each metric, and their text."""
    same = {"n_params": metrics["n_params"]._replace(deviation=None)}  # for each seed
    return {
        name: [spread.mean, spread.deviation, spread.n, metric_text(name, spread)]
        for name, spread in {**metrics, **same}.items()
    }


def _run(trial: Trial, rows: Sequence[Evaluation]) -> dict[str, Any]:
    best = dataclasses.replace(trial, rows=tuple(rows)).best
    step = -(-len(rows) // MAX_ROWS)  # rounded up
    rows = [row for n, row in enumerate(rows) if n % step == 0 or row in (best, rows[-1])]
    return {
        "seed": trial.setup.seed,
        "state": trial.state,
        "started": round(trial.started),
        "origin": printable(trial.origin) if trial.origin else trial.origin,
        "iteration": [row.iteration for row in rows],
        "top1": [row.top1 for row in rows],
        "train_loss": [row.train_loss for row in rows],
        "test_loss": [row.test_loss for row in rows],
        "class_confidence": best.class_confidence if best else None,
    }


def _rate_curves(entry: Ranked, rows: RowsById) -> list[dict[str, Any]]:
    """The learning rate curves of a policy.

    A policy with memory has a curve for each seed, because its rates depend on the measurements.
    Any other policy has one curve, as long as its longest trial.
    """
    policy = parse_or_none(entry.policy)
    recorded = [
        (trial.setup.seed, tuple((row.iteration, row.lr) for row in rows[trial.id]))
        for trial in _runs(entry)
        if trial.id in rows
    ]
    if policy and policy.has_memory:
        return [_rate_curve(seed, policy, rates) for seed, rates in recorded]
    longest = sorted(recorded, key=lambda pair: pair[1][-1][0])[-1:]
    return [_rate_curve(None, policy, rates) for _, rates in longest]


def _rate_curve(
    seed: int | None, policy: Policy | None, recorded: tuple[tuple[int, float | None], ...]
) -> dict[str, Any]:
    t, lr = _drawn_rates(policy, recorded)
    return {"seed": seed, "iteration": t, "rate": lr}


@functools.lru_cache(maxsize=1000)
def _drawn_rates(
    policy: Policy | None, recorded: tuple[tuple[int, float | None], ...]
) -> tuple[list[int], list[float | None]]:
    """The (iterations, learning rates) to draw for a trial.

    They are cached, because a live page asks for the same ones again and again.
    """
    last = recorded[-1][0]
    try:
        t, lr = curves.sample_schedule(curves.trial_schedule(policy, recorded), last, POINTS)
    except InputError:  # an imported trial has rows that its policy cannot have
        return [iteration for iteration, _ in recorded], [rate for _, rate in recorded]
    return t.tolist(), [float("%.6g" % rate) for rate in lr]


def _range_curves(entries: list[Ranked], rows: RowsById) -> list[dict[str, Any]] | None:
    """The curves of the paper's Figure 3, or None if the task has too few constant rates.

    See :func:`lrbench_caffe.ranking.ranges.top1_curves`.
    """
    trials = [
        dataclasses.replace(trial, rows=rows[trial.id])
        for entry in entries
        if entry.function == "FIX"
        for trial in _runs(entry)
        if trial.id in rows
    ]
    if len({trial.parameters["k0"] for trial in trials}) < MIN_CONSTANT_RATES:
        return None
    return [curve._asdict() for curve in ranges.top1_curves(trials)] or None


def _sets(trials: Sequence[Trial]) -> str:
    """On which set the numbers are chosen and on which they are reported, as sentences."""
    pairs = set(filter(None, map(ranking.sets_of, trials)))
    text = "".join(" Numbers are %s." % sentence for sentence in ranking.sets_remarks(trials))
    if any(select != report for select, report in pairs):
        text += " The curves are those on the set that decides."
    return text


def _selected(entry: Ranked, trials: Sequence[Trial]) -> list[Any] | None:
    """The deciding set and the mean Top-1 on it, None if it is the one that is reported."""
    pairs = filter(None, map(ranking.sets_of, trials))
    name = next((select for select, report in pairs if select != report), None)
    mean = entry.deciding["top1"].mean
    return None if name is None or mean is None else [printable(name), mean]
