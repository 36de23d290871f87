"""The demonstration: all 13 functions on scikit-learn's handwritten digits, from nothing to a ranking in about a minute."""

import os

from lrbench_caffe import datasets, paths, ranking, study
from lrbench_caffe.display import console, progress, tables
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import Job

# Ranges as the paper finds them (section V): k0 from the best constant rates, cycles of a few epochs; 22 iterations are an epoch.
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


def run(out, parallel, dsn, format="table"):
    """Train the digits under each of POLICIES, show the ranking in this format, and write the picture of the curves to out."""
    from lrbench_caffe.report import plots

    plots.check_path(out)
    data = os.path.join(paths.home(), "data")
    datasets.convert("digits", data)
    jobs = [
        Job(
            solver=paths.shipped("solvers/digits_solver.prototxt"), policy=policy, seed=1, data=data
        )
        for policy in POLICIES
    ]
    with progress.StudyDisplay() as shown:
        trials = study.run_jobs(jobs, Cores(parallel), shown, dsn)
    ranked = ranking.sort_by_top1(trials)
    console.print_tables(
        tables.results(ranked, "13 learning rate policies on scikit-learn's handwritten digits"),
        format=format,
    )
    plots.curves(trials, out, "Learning rate policies on handwritten digits")
    console.print_line("curves: %s" % os.path.abspath(out), aside=format != "table")
    console.print_line("rows: SELECT * FROM result in `lrbench db shell`", aside=format != "table")
