"""Reproductions: a table or figure of the paper is trained as a study, and its page written from the rows."""
import os
import shlex

from lrbench_caffe import __version__, database, datasets, demo, home, paper, study, tables
from lrbench_caffe.database import files
from lrbench_caffe.errors import InputError, TrialError
from lrbench_caffe.report import descent, figures
from lrbench_caffe.trial import Job


def train(target, scale, seeds, pool, display, data=None, dsn=None, progress=None):
    """Train what the target needs, or go on with it, and return its study's Trials with all their rows.

    data is the folder that `lrbench data` wrote to; None: one below LRBENCH_HOME, made from the dataset's official files, which
    are downloaded.  Errors as of :func:`lrbench_caffe.study.go_on`, and TrialError when some could not begin.
    """
    setting, policies = target.setting, paper.policies(target, scale)
    if data is None:
        data = os.path.join(home.home(), "data")
        datasets.convert(setting.dataset, data, pad=setting.pad, progress=progress)
    lengths = {} if scale == 1 else {"max_iter": round(scale * setting.max_iter),
                                     "test_interval": max(1, round(scale * setting.test_interval))}
    jobs = [Job(demo.shipped(setting.solver), policy=policy, seed=seed, data=data, **lengths)
            for seed in range(1, seeds + 1) for policy in policies.values()]
    name = paper.study_name(target, scale)
    study.go_on(name, pool, display, jobs, dsn)
    with database.Store(dsn) as store:
        waiting = sum(entry.state is None for entry in database.studies.jobs(store, name))
        if waiting:
            raise TrialError("%d of the trainings could not begin: the same command tries again" % waiting)
        return store.trials(study=name)


def stored(target, source, scale=1):
    """The trials of a file of rows, or of that of the target in a folder, e.g. results/table-7.jsonl.gz."""
    if os.path.isdir(source):
        source = os.path.join(source, paper.study_name(target, scale) + ".jsonl.gz")
    return files.read(source)


def write(target, trials, folder, command):
    """Write the page, the picture and the rows to a folder, which is made; returns (the table, the page's path).

    command is what it was made with, a list of words.  Raises InputError for trials that are none of the target's.
    """
    scale = paper.scale_of(target, trials)
    table = paper.comparison(target, trials, scale)
    name = paper.study_name(target, scale)
    place = os.path.join(_made(folder), name)
    figures.draw(target, trials, scale, place + ".png")
    files.write(place + ".jsonl.gz", trials)
    lines = ["# " + table.title, "", "![%s](%s.png)" % (table.title, name), "",
             tables.render([table._replace(title=None)], "markdown")]
    lines += [line + "\n" for line in _notes(target, trials, scale)]
    lines.append("Made by `%s` with lrbench_caffe %s, from %d trainings: %s. `lrbench reproduce %s --from %s.jsonl.gz` makes this "
                 "page again from the rows beside it.\n" % (
                     _typed(command), __version__, len(trials), "; ".join(_machines(trials)), target.name, name))
    with open(place + ".md", "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return table, place + ".md"


def write_figure_1(folder, command, progress):
    """Write Figure 1 to a folder, which is made: a picture, an animation and a page; returns the page's path."""
    place = os.path.join(_made(folder), "figure-1")
    descent.draw(place + ".png")
    descent.animate(place + ".gif", progress)
    with open(place + ".md", "w", encoding="utf-8") as file:
        file.write("\n\n".join([
            "# Figure 1: three policies on a surface with a local and a global minimum", "![contours](figure-1.png)",
            "![animation](figure-1.gif)", descent.outcome(),
            "At first TRIEXP, whose rate rises, is ahead and bounces across the valley; FIX comes to rest in the local minimum, "
            "NSTEP and TRIEXP find the global one, as the paper says.",
            "The paper gives neither its surface nor its starting point: both are chosen here so that what it describes can be "
            "seen, and show no more than that it is possible. Its gamma=0.1 of TRIEXP, taken as the decay of each iteration as "
            "in Table I, would end the cycle within three iterations; here it is the decay over l iterations: %s."
            % descent.POLICIES[2][1],
            "The surface is f(x, y) = (x - 1.2)² / 2 + 25/4 (√(1 + 4 y²) - 1) - 0.162 exp(-(x² + y²) / (2 · 0.06²)), the start "
            "(%g, %g)." % descent.START,
            "Made by `%s` with lrbench_caffe %s.\n" % (_typed(command), __version__)]))
    return place + ".md"


def _made(folder):
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError("the folder %s cannot be made (%s): name another with --out" % (folder, error.strerror))
    return folder


def _typed(command):
    return "lrbench " + " ".join(shlex.quote(word) for word in command)


def _notes(target, trials, scale):
    """Sentences on what the numbers are, and are not."""
    if scale != 1:
        yield ("**At scale %.6g**: these trainings have %d iterations instead of %d, and everything that counts iterations was "
               "made shorter alike. They are not the paper's trainings, and their accuracies need not be the paper's. The "
               "difference of #Iter is to the published one made shorter." % (
                   scale, round(scale * target.setting.max_iter), target.setting.max_iter))
    seeds = {trial.setup.seed for trial in trials}
    yield ("Ours: mean ± sample standard deviation over %d seed%s, at each training's highest Top-1. Published: Top-1 ± the "
           "paper's deviation over five." % (len(seeds), "" if len(seeds) == 1 else "s"))
    slips = [published.policy.partition("(")[0] for published in target.published if published.slips]
    if slips:
        yield "The published CDAC of %s is a misprint: no difference to it is given." % " and ".join(slips)
    if target.name in ("table-3a", "table-5"):
        yield "The paper gives no l for this table; 2000 is taken from its Tables VIII and IX."
    if target.name.startswith(("figure-3", "figure-4")):
        yield "The paper gives neither the values along the axis nor the lengths of training: both are chosen here."


def _machines(trials):
    found = {}
    for trial in trials:
        framework = trial.setup.framework
        where = "%s %s, %s, on %s" % (framework.name, framework.version, trial.blas or "unknown BLAS", trial.host)
        found[where] = found.get(where, 0) + 1
    return ["%d with %s" % (count, where) for where, count in sorted(found.items())]
