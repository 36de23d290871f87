"""Reproductions: a table or figure of the paper is trained as a study, and its page written from the rows."""

import os

from lrbench_caffe import __version__, database, datasets, paths, study
from lrbench_caffe.database import exchange, incoming
from lrbench_caffe.display import tables
from lrbench_caffe.errors import InputError
from lrbench_caffe.paper import descent, figures, targets
from lrbench_caffe.trial import Job


def prepare(target, scale, folder, data=None, progress=None):
    """Make what can be missing before anything is trained, the folder of the results and the data; returns the data's folder.

    data is the folder that `lrbench data` wrote to; None: one below LRBENCH_HOME, made from the dataset's official files, which
    are downloaded.  Raises InputError for what cannot be made, and for a scale that is too small.
    """
    targets.policies(target, scale)
    _made(folder)
    if data is None:
        data = os.path.join(paths.home(), "data")
        datasets.convert(target.setting.dataset, data, pad=target.setting.pad, progress=progress)
    return data


def train(target, scale, seeds, pool, display, data, dsn=None, test_interval=None):
    """Train what the target needs, or go on with it; returns how many trainings could not begin.

    test_interval: the iterations between two evaluations, None: the paper's at that scale.  Errors and display as of
    :func:`lrbench_caffe.study.go_on`.
    """
    setting, name = target.setting, targets.study_name(target, scale)
    jobs = [
        Job(
            paths.shipped(setting.solver),
            policy=policy,
            seed=seed,
            data=data,
            max_iter=round(scale * setting.max_iter),
            test_interval=test_interval or targets.test_interval(target, scale),
        )
        for seed in range(1, seeds + 1)
        for policy in targets.policies(target, scale).values()
    ]
    study.run_study(name, pool, display, jobs, dsn)
    with database.Store(dsn) as store:
        return sum(entry.state is None for entry in database.studies.jobs(store, name))


def export(target, scale, folder, dsn=None, progress=None):
    """Export the rows of the target's study to a folder; returns the file's path."""
    name = targets.study_name(target, scale)
    rows = os.path.join(folder, name + ".jsonl")
    exchange.export_trials(rows, dsn, {"study": name}, progress=progress)
    return rows


def write(target, rows, folder):
    """Write the page and the picture of an export's trials to a folder, which is made; returns (the table, page's path, trials).

    The page depends on the rows and their place alone; trials under other policies, those of another table of the same network,
    are left out.  Raises InputError for trials that are none of the target's.
    """
    trials = incoming.trials(rows)
    scale = targets.scale_of(target, trials)
    known = set(targets.policies(target, scale).values())
    trials = [trial for trial in trials if trial.policy in known]
    table = targets.comparison(target, trials, scale)
    place = os.path.join(_made(folder), targets.study_name(target, scale))
    figures.draw(target, trials, scale, place + ".png")
    with open(place + ".md", "w", encoding="utf-8") as file:
        file.write(
            "\n\n".join(_page(target, trials, scale, table, os.path.relpath(rows, folder))) + "\n"
        )
    return table, place + ".md", trials


def write_figure_1(folder, progress):
    """Write Figure 1 to a folder, which is made: a picture, an animation and a page; returns the page's path."""
    place = os.path.join(_made(folder), "figure-1")
    descent.draw(place + ".png")
    descent.animate(place + ".gif", progress)
    with open(place + ".md", "w", encoding="utf-8") as file:
        file.write(
            "\n\n".join(
                [
                    "# Figure 1: three policies on a surface with a local and a global minimum",
                    "![contours](figure-1.png)",
                    "![animation](figure-1.gif)",
                    descent.outcome(),
                    "At first TRIEXP, whose rate rises, is ahead and bounces across the valley; FIX comes to rest in the local minimum, "
                    "NSTEP and TRIEXP find the global one, as the paper says.",
                    "The paper gives neither its surface nor its starting point: both are chosen here so that what it describes can be "
                    "seen, and show no more than that it is possible. Its gamma=0.1 of TRIEXP, taken as the decay of each iteration as "
                    "in Table I, would end the cycle within three iterations; here it is the decay over l iterations: %s."
                    % descent.POLICIES[2][1],
                    "The surface is f(x, y) = (x - 1.2)² / 2 + 25/4 (√(1 + 4 y²) - 1) - 0.162 exp(-(x² + y²) / (2 · 0.06²)), the start "
                    "(%g, %g)." % descent.START,
                    "Made by `lrbench reproduce figure-1` with lrbench_caffe %s.\n" % __version__,
                ]
            )
        )
    return place + ".md"


def _made(folder):
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(
            "the folder %s cannot be made (%s): name another with --out" % (folder, error.strerror)
        )
    if not os.access(folder, os.W_OK):
        raise InputError(
            "nothing can be written to the folder %s: name another with --out" % folder
        )
    return folder


def _page(target, trials, scale, table, rows):
    """The parts of a target's page, in Markdown; rows is where it will find its export."""
    seeds = len({trial.setup.seed for trial in trials})
    found = {trial.setup.solver.get("test_interval") for trial in trials}
    intervals = sorted(
        interval
        for interval in found
        if interval not in (None, targets.test_interval(target, scale))
    )
    yield "# " + table.title
    yield "![%s](%s.png)" % (table.title, targets.study_name(target, scale))
    yield tables.render([table._replace(title=None)], "markdown").rstrip("\n")
    if scale != 1:
        yield (
            "**At scale %.6g**: these trainings have %d iterations instead of %d, and everything that counts iterations was "
            "made shorter alike. They are not the paper's trainings, and their accuracies need not be the paper's. The "
            "difference of #Iter is to the published one made shorter."
            % (scale, round(scale * target.setting.max_iter), target.setting.max_iter)
        )
    if intervals:
        yield (
            "**Evaluated every %s iterations**, where the paper's interval at this scale is %d: the highest Top-1 is that of "
            "other evaluations." % (_listed(intervals), targets.test_interval(target, scale))
        )
    yield (
        "Ours: one seed, at the training's highest Top-1."
        if seeds == 1
        else "Ours: mean ± sample standard deviation over up to %d seeds, at each training's highest Top-1."
        % seeds
    )
    if target.published:
        yield "Published: what the paper prints, the deviation that of its trainings."
    yield from _notes(target)
    for trial in trials:
        if trial.error:
            yield "Not counted: %s, seed %d, %s: %s." % (
                trial.policy,
                trial.setup.seed,
                trial.state,
                trial.error,
            )
    yield _origin(trials)
    options = ("" if scale == 1 else " --scale %.10g" % scale) + "".join(
        " --test-interval %d" % n for n in intervals
    )
    yield (
        "`lrbench reproduce %s%s --seeds %d` trains this; `lrbench reproduce %s --from %s` makes this page from the rows."
        % (target.name, options, seeds, target.name, rows)
    )


def _notes(target):
    """Sentences on what the paper leaves open."""
    slips = [
        published.policy.partition("(")[0] for published in target.published if published.slips
    ]
    if slips:
        yield "The published CDAC of %s is a misprint: no difference to it is given." % _listed(
            slips
        )
    if target.name in ("table-3a", "table-5"):
        yield "The paper gives no l for this table; 2000 is taken from its Tables VIII and IX."
    if target.name.startswith(("figure-3", "figure-4")):
        yield (
            "The paper gives neither the values along the axis nor the lengths of training: both are chosen here. A hollow dot "
            "is a training that diverged, with what it had reached then."
        )


def _origin(trials):
    """How many trainings each program and machine has done, and how many of them were cut off on the way."""
    found = {}
    for trial in trials:
        framework = trial.setup.framework
        where = "%s %s, %s, on %s" % (
            framework.name,
            framework.version,
            trial.blas or "unknown BLAS",
            trial.host,
        )
        found[where] = found.get(where, 0) + 1
    text = "Trainings: %s." % "; ".join(
        "%d with %s" % (count, where) for where, count in sorted(found.items())
    )
    resumed = sum(trial.resumed_at is not None for trial in trials)
    if resumed:
        text += (
            " %d of them went on from a snapshot; Caffe then reads the batches from the first one again."
            % resumed
        )
    return text


def _listed(values):
    """1, 2 and 3."""
    *others, last = [str(value) for value in values]
    return ", ".join(others) + " and " + last if others else last
