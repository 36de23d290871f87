"""The demonstration: all 13 functions on scikit-learn's digits, ranked in half a minute."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lrbench_caffe import database, datasets, paths, ranking, study
from lrbench_caffe.display import console, progress, tables
from lrbench_caffe.errors import TrialError
from lrbench_caffe.study import failures
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrbench_caffe.trial import Trial

# Ranges as the paper finds them (section V): k0 near the best constant rates, and cycles of a few
# epochs. An epoch has 22 iterations.
POLICIES = (
    "FIX(k0=0.01)",
    "STEP(k0=0.05, gamma=0.7, l=100)",
    "NSTEP(k0=0.05, gamma=0.3, l=[300, 400, 500])",
    "EXP(k0=0.05, gamma=0.995)",
    "INV(k0=0.05, gamma=0.01, p=0.75)",
    "POLY(k0=0.05, p=1.2, l=600)",
    "TRI(k0=0.005, k1=0.08, l=100)",
    "TRI2(k0=0.005, k1=0.08, l=100)",
    "TRIEXP(k0=0.005, k1=0.08, gamma=0.997, l=100)",
    "SIN(k0=0.005, k1=0.08, l=100)",
    "SIN2(k0=0.005, k1=0.08, l=100)",
    "SINEXP(k0=0.005, k1=0.08, gamma=0.997, l=100)",
    "COS(k0=0.005, k1=0.08, l=100)",
)


def run(out: str, parallel: int | None, dsn: str | None, format: str = "table") -> Trial:
    """Train the digits under each of POLICIES, print the ranking, and write the curves and a page.

    Args:
        out: The picture to write. The page, an HTML report, has the same name but for the ending.
        parallel: The number of parallel trainings; None for one per core.
        dsn: The database; None for the one in LRBENCH_DSN, else the private server's.
        format: The format of the table, see :func:`lrbench_caffe.display.console.print_tables`.

    Returns:
        The trial with the highest Top-1.

    Raises:
        InputError: The picture cannot be written, or the database cannot be used.
        TrialError: A training could not begin or failed. The table and the picture are made before.
        KeyboardInterrupt: After Ctrl-C; the evaluations until then are recorded.
    """
    from lrbench_caffe.report import page, plots

    plots.check_path(out)
    report = os.path.splitext(out)[0] + ".html"
    page.check_path(report)
    data = os.path.join(paths.home(), "data")
    datasets.convert("digits", data)
    solver = paths.shipped("solvers/digits_solver.prototxt")
    jobs = [Job(solver=solver, policy=policy, seed=1, data=data) for policy in POLICIES]
    with progress.StudyDisplay() as display:
        trials = study.run_jobs(jobs, Cores(parallel), display, dsn)
    ranked = ranking.sort_by_top1(trials)
    title = "13 learning rate policies on scikit-learn's handwritten digits, one seed each"
    console.print_tables(tables.results(ranked, title), format=format)
    for line in ranking.sets_remarks(trials) + failures.lines(trials):
        console.print_line(line, aside=format != "table")
    if not any(trial.rows for trial in trials):
        _check_complete(trials)  # there is nothing to draw
    plots.curves(trials, out, "Learning rate policies on handwritten digits")
    _write_report(trials, report, dsn)
    for line in (
        "curves: %s" % os.path.abspath(out),
        "report: %s" % os.path.abspath(report),
        "rows: SELECT * FROM result in `lrbench db shell`",
    ):
        console.print_line(line, aside=format != "table")
    _check_complete(trials)
    return ranked[0]


def _write_report(trials: Sequence[Trial], path: str, dsn: str | None) -> None:
    """Write the page with these trials, and others of this task that the database has."""
    from lrbench_caffe.report import content, page

    setup = trials[0].setup
    filters: dict[str, str | None] = {"dataset": setup.dataset.name, "network": setup.network.hash}
    with database.Store(dsn) as store:
        page.write(path, content.load(store, filters, ranking.parse_criterion("top1")))


def _check_complete(trials: Sequence[Trial]) -> None:
    """Check that a trial of each policy began, and that none of them failed."""
    missing = len(POLICIES) - len(trials)
    if missing:
        raise TrialError(
            "%d of %d trainings could not begin: correct the cause and run the same command again"
            % (missing, len(POLICIES))
        )
    failures.raise_if_any(trials, "correct the cause and run the same command again")
