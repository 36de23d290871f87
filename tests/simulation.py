"""A simulated study in a program of its own: its training function only emits events.

Everything else is real: the journal, the database and the display.
"""

import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAME = "simulated"


def measure(dsn, trials, evaluations):
    """Run the simulation in a process of its own.

    Args:
        dsn: The database for the study.
        trials: The number of trials.
        evaluations: The number of evaluations of each trial.

    Returns:
        CPU seconds per trial in the first tenth; in the last tenth, with everything that is
        delivered after it; and the peak memory in megabytes.

    Raises:
        RuntimeError: The study failed or printed a message.
    """
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), dsn, str(trials), str(evaluations)],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    # The display prints a line with the policy for each trial.
    messages = [line for line in done.stderr.splitlines() if "FIX(" not in line]
    if done.returncode or messages:
        raise RuntimeError(
            "the simulated study exited with status %d and printed: %s"
            % (done.returncode, "\n".join(messages[-20:]))
        )
    return json.loads(done.stdout)


def simulate(dsn, trials, evaluations):
    """Run the study in this process; its trials have different policies. See :func:`measure`."""
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

    framework = Framework("Caffe", "1.0.0")
    network = Network("net", "0" * 64, "layer {}" * 1000)
    dataset = Dataset("digits", (1, 8, 8), 10, 10)
    setup = Setup(framework, network, dataset, 10, {"momentum": 0.9}, 1)
    ends, journal = [], os.path.join(home(), "journal")

    def training(job, stop, on_event, threads):
        while len(os.listdir(journal)) > 8:  # real trainings are slower than the database
            time.sleep(0.001)
        trial = Trial(job.id, job.policy, "FIX", {"k0": 0.1}, 1, setup, "here", time.time())
        on_event("begin", trial)
        for iteration in range(evaluations):
            progress = {"iteration": iteration, "max_iter": evaluations, "lr": 0.1, "loss": 1.0}
            on_event("progress", progress)
            top1 = iteration / evaluations
            row = Evaluation(iteration, 0.1, 1.0, 1.0, top1, 1.0, 0.5, 0.1, 0.1, 0.0)
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
    # ru_maxrss would include the memory of the program that started this one.
    with open("/proc/self/status") as status:
        (kilobytes,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return (
        (ends[tenth - 1] - ends[0]) / (tenth - 1),
        (finished - ends[-tenth - 1]) / tenth,
        kilobytes / 1024,
    )


if __name__ == "__main__":
    print(json.dumps(simulate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
