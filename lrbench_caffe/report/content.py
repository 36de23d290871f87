"""What a report shows, as plain values that JSON can hold: read from the store, ranked, thinned to what a page can draw."""

import dataclasses
import functools
import time

from lrbench_caffe import ranking
from lrbench_caffe.database import studies
from lrbench_caffe.display.tables import states_note
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import parse_or_none
from lrbench_caffe.ranking import ranges
from lrbench_caffe.report import curves
from lrbench_caffe.report.page import lines_to_paste

CURVES = 60  # policies of a task whose rows a page holds; the others are in its table
POINTS = 600  # of a learning rate curve
PARETO = ("top1", "iterations")


def load(store, filters, criterion, progress=None):
    """The content of a report on the trials that fit filters (as of Store.trials) in a database.

    progress is called with (what, done, total).  Raises InputError for a study that is not there.
    """
    report = progress or (lambda what, done, total: None)
    waiting = (
        sum(entry.state is None for entry in studies.jobs(store, filters["study"]))
        if "study" in filters
        else 0
    )
    trials = store.trials(best_only=True, **filters)
    tasks = []
    for n, (task, members) in enumerate(ranking.group_by_task(trials).items()):
        report("reading tasks", n, None)
        tasks.append(_task(store, n, task, members, criterion))
    states = [trial.state for trial in trials]
    return {
        "title": filters.get("study")
        or filters.get("dataset")
        or filters.get("network")
        or "All trials",
        "filters": ["%s %s" % item for item in sorted(filters.items())],
        "made": time.time(),
        "by": {"kind": criterion.kind, "metrics": list(criterion.weights)},
        "states": dict(
            {state: states.count(state) for state in sorted(set(states))},
            **({"waiting": waiting} if waiting else {}),
        ),
        "tasks": sorted(tasks, key=lambda task: -task["trials"]),
    }


def _task(store, number, task, trials, criterion):
    dataset, network = task
    entries = ranking.rank(trials, criterion)
    by_metric = {
        name: {
            entry.label: entry
            for entry in ranking.rank(trials, ranking.Criterion("order", {name: 1.0}))
        }
        for name in ranking.METRICS
    }
    front = {entry.label for entry in ranking.pareto_front(entries, PARETO)}
    drawn = (
        entries[:CURVES] + [entry for entry in entries[CURVES:] if entry.function == "FIX"][:CURVES]
    )
    rows = store.rows([trial.id for entry in drawn for trial in entry.trials + entry.others])
    about = [
        ["shape", "x".join(map(str, dataset.shape)) if dataset.shape else None],
        ["train samples", dataset.train_samples],
        ["test samples", dataset.test_samples],
        ["classes", trials[0].setup.classes],
    ]
    return {
        "id": "%s/%s/%s/%d" % (dataset.name, network.name, network.hash[:12], number),
        "dataset": dataset.name,
        "network": network.name,
        "about": about,
        "trials": len(trials),
        "policies": [_policy(entry, rows, front, by_metric) for entry in entries],
        "range": _range_test(entries, rows),
        "troubles": [
            {
                "policy": trial.policy,
                "seed": trial.setup.seed,
                "state": trial.state,
                "error": trial.error,
            }
            for trial in trials
            if trial.error
        ],
    }


def _policy(entry, rows, front, by_metric):
    runs = []
    for trial in entry.trials + entry.others:
        found = rows.get(trial.id, ())
        runs.append(
            {
                "seed": trial.setup.seed,
                "state": trial.state,
                "origin": trial.origin,
                "iteration": [row.iteration for row in found],
                "top1": [row.top1 for row in found],
                "train_loss": [row.train_loss for row in found],
                "test_loss": [row.test_loss for row in found],
                "classes": trial.best.class_confidence if trial.best else None,
            }
        )
    return {
        "policy": entry.policy,
        "label": entry.label,
        "note": states_note(entry.others).strip(" ()"),
        "function": entry.function,
        "paste": lines_to_paste(entry.policy),
        "rank": entry.rank,
        "tied": entry.tied,
        "seeds": len(entry.trials),
        "front": entry.label in front,
        "metrics": {
            name: [found.mean, found.deviation if name != "n_params" else None]
            for name, found in entry.metrics.items()
        },
        "ranks": {
            name: [ranks[entry.label].rank, ranks[entry.label].tied]
            for name, ranks in by_metric.items()
        },
        "rates": _rates(entry, rows),
        "runs": runs,
    }


def _rates(entry, rows):
    """The learning rate's curves: one for each seed where the rate depends on what was measured, else one, as far as the longest
    went.
    """
    policy = parse_or_none(entry.policy)
    runs = [
        (trial.setup.seed, tuple((row.iteration, row.lr) for row in rows[trial.id]))
        for trial in entry.trials + entry.others
        if trial.id in rows
    ]
    if not (policy and policy.has_memory):
        runs = [(None, run) for _, run in sorted(runs, key=lambda run: run[1][-1][0])[-1:]]
    return [
        dict(zip(("seed", "iteration", "rate"), (seed, *rates(policy, run)))) for seed, run in runs
    ]


@functools.lru_cache(maxsize=1000)
def rates(policy, run):
    """(iterations, rates) of a trial under a policy (None: one that only Caffe has) up to the last of its (iteration, lr)."""
    try:
        t, lr = curves.thinned(curves.measured(policy, run), run[-1][0], POINTS)
    except InputError:  # its rows are not those of its policy
        t, lr = zip(*run)
        return list(t), list(lr)
    return t.tolist(), [float("%.6g" % value) for value in lr]


def _range_test(entries, rows):
    """The curves of figure 3 of the paper, see :func:`lrbench_caffe.ranking.ranges.curves`; None for fewer than three constant rates."""
    trials = [
        dataclasses.replace(trial, rows=rows[trial.id])
        for entry in entries
        if entry.function == "FIX" and not entry.settings
        for trial in entry.trials + entry.others
        if trial.id in rows
    ]
    if len({trial.parameters["k0"] for trial in trials}) < 3:
        return None
    return [curve._asdict() for curve in ranges.top1_curves(trials)] or None
