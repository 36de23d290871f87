"""A simulated study: a training function that only says what a training says, and the real rest, in a program of its own."""

import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = "simulated"


def measure(dsn, trials, evaluations):
    """Run the simulation: (CPU seconds of a trial in the first tenth, in the last with all that is delivered after it, MB).

    Raises RuntimeError with what the program said where it did not end well.
    """
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), dsn, str(trials), str(evaluations)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    complaints = [
        line for line in done.stderr.splitlines() if "FIX(" not in line
    ]  # the lines of trials are thousands
    if done.returncode or complaints:
        raise RuntimeError(
            "the simulated study ended with status %d and said: %s"
            % (done.returncode, "\n".join(complaints[-20:]))
        )
    return json.loads(done.stdout)


def simulate(dsn, trials, evaluations):
    """The study of so many trials, each of a policy of its own."""
    from lrbench_caffe import study
    from lrbench_caffe.display.progress import StudyDisplay
    from lrbench_caffe.paths import home
    from lrbench_caffe.study.cores import Cores
    from lrbench_caffe.trial import (
        FINISHED,
        Dataset,
        Evaluation,
        Framework,
        Job,
        Network,
        Setup,
        Trial,
    )

    setup = Setup(
        Framework("Caffe", "1.0.0"),
        Network("net", "0" * 64, "layer {}" * 1000),
        Dataset("digits", (1, 8, 8), 10, 10),
        10,
        {"momentum": 0.9},
        1,
    )
    ends, journal = [], os.path.join(home(), "journal")

    def training(job, stop, on_event, threads):
        while len(os.listdir(journal)) > 8:  # real trainings are slower than the database
            time.sleep(0.001)
        trial = Trial(job.id, job.policy, "FIX", {"k0": 0.1}, 1, setup, "here", time.time())
        on_event("begin", trial)
        for iteration in range(evaluations):
            on_event(
                "progress",
                {"iteration": iteration, "max_iter": evaluations, "lr": 0.1, "loss": 1.0},
            )
            row = Evaluation(
                iteration, 0.1, 1.0, 1.0, iteration / evaluations, 1.0, 0.5, 0.1, 0.1, 0.0
            )
            on_event("row", row)
            trial = trial.with_row(row)
        on_event("end", trial.ended_as(FINISHED, time.time()))
        ends.append(time.process_time())

    jobs = [
        Job(os.path.abspath(__file__), policy="FIX(k0=%r)" % (1e-6 * (n + 1)))
        for n in range(trials)
    ]
    with StudyDisplay() as display:
        study.run_study(NAME, Cores(2, train=training), display, jobs, dsn)
    finished, tenth = time.process_time(), trials // 10
    with open(
        "/proc/self/status"
    ) as status:  # ru_maxrss would count what the program that started this one had
        (kilobytes,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return (
        (ends[tenth - 1] - ends[0]) / (tenth - 1),
        (finished - ends[-tenth - 1]) / tenth,
        kilobytes / 1024,
    )


if __name__ == "__main__":
    print(json.dumps(simulate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
