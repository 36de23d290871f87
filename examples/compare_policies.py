"""Train three policies with two seeds each, as many at a time as there are cores, and rank them.

docker/run python3 examples/compare_policies.py
"""

from lrbench_caffe import datasets, ranking
from lrbench_caffe.display.progress import StudyDisplay
from lrbench_caffe.paths import shipped
from lrbench_caffe.study import run_jobs
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.trial import Job

DATA = "data"
POLICIES = (
    "FIX(k0=0.01)",
    "POLY(k0=0.05, p=1.2, l=300)",
    "SIN2(k0=0.005, k1=0.08, l=100)",
)


def main() -> None:
    """Train, rank and print."""
    datasets.convert("digits", DATA)
    solver = shipped("solvers/digits_solver.prototxt")
    jobs = [
        Job(solver, policy=policy, seed=seed, data=DATA, max_iter=300)
        for policy in POLICIES
        for seed in (1, 2)
    ]
    with StudyDisplay() as display:
        trials = run_jobs(jobs, Cores(), display)

    for entry in ranking.rank(trials, ranking.parse_criterion("top1,iterations")):
        top1 = entry.metrics["top1"]
        print(
            "%s%s  %-32s Top-1 %.2f %% +- %.2f, best at iteration %.0f"
            % (
                entry.rank,
                "=" if entry.tied else " ",
                entry.policy,
                100 * top1.mean,
                100 * top1.deviation,
                entry.metrics["iterations"].mean,
            )
        )


if __name__ == "__main__":
    main()
