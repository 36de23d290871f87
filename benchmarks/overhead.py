"""Measures what LRBench costs compared with Caffe, numpy and PostgreSQL alone.

Run `make bench`, or `docker/run python3 benchmarks/overhead.py [NAME ...]` for some benchmarks.

Each figure is a ratio or a difference of two measurements that were made one after the other, so it
does not depend on the speed of the machine. A line shows the median of several pairs, their
smallest and largest value, and whether the median keeps to its limit. LeNet trains on random images
of MNIST's shape, because its speed does not depend on them.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrbench_caffe.database import Store

T = TypeVar("T")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

PAIRS = 7
POLICY = "SIN2(k0=0.0001, k1=0.006, l=2000)"  # larger rates diverge on random data


def report(
    name: str,
    values: Sequence[float],
    unit: str,
    limit: float,
    worse: Callable[[float, float], float] = max,
) -> None:
    """Print the median of values, their range, and whether the median keeps to its limit.

    Args:
        name: What was measured.
        values: A value for each pair.
        unit: Unit of the values.
        limit: The largest median that is accepted; the smallest if worse is min.
        worse: max if larger values are worse, else min.
    """
    median = statistics.median(values)
    kept = "kept" if worse(median, limit) == limit else "NOT KEPT"
    print(
        "%-52s %8.3f %-10s [%.3f to %.3f, %d pairs]  limit %g: %s"
        % (name, median, unit, min(values), max(values), len(values), limit, kept),
        flush=True,
    )


def paired(
    first: Callable[[], T], second: Callable[[], T], pairs: int = PAIRS
) -> list[tuple[T, T]]:
    """Take pairs of measurements in turn, after one of each that is not counted."""
    first()
    second()
    return [(first(), second()) for _ in range(pairs)]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that work() takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def environment() -> dict[str, str]:
    """Return the environment of a command that finds this project and what PYTHONPATH names."""
    folders = filter(None, [ROOT, os.environ.get("PYTHONPATH")])
    return dict(os.environ, PYTHONPATH=os.pathsep.join(folders))


def write_lenet(folder: str, **settings: Any) -> str:
    """Write a solver prototxt for LeNet, and its data, into a folder.

    Args:
        folder: The folder.
        **settings: Fields of the solver to change.

    Returns:
        The path of the solver.
    """
    from caffe.proto import caffe_pb2
    from nets import random_lmdb

    from lrbench_caffe.training import prototxt

    for part, samples in (("train", 6000), ("test", 2000)):
        lmdb = os.path.join(folder, "mnist_%s_lmdb" % part)
        if not os.path.exists(lmdb):
            random_lmdb(lmdb, samples)
    original = os.path.join(ROOT, "solvers", "lenet_solver.prototxt")
    solver = prototxt.read_solver(original)
    solver.test_iter[:] = [20]
    for name, value in settings.items():
        setattr(solver, name, value)
    solver = prototxt.resolve(solver, original, folder)
    solver.snapshot_prefix = os.path.join(folder, "snapshot")
    solver.solver_mode = caffe_pb2.SolverParameter.CPU
    path = os.path.join(folder, "solver.prototxt")
    prototxt.write_solver(solver, path)
    return path


def training() -> None:
    """Compare `lrbench train` with `caffe train`: LeNet's iterations a second from 20 to 170."""
    from conftest import private_home

    first, last = 20, 170
    with private_home(), tempfile.TemporaryDirectory() as folder:
        path = write_lenet(
            folder,
            max_iter=last + 1,
            test_interval=10**6,
            test_initialization=False,
            display=10,
            random_seed=1,
        )
        pairs = paired(
            lambda: speed_of_lrbench(path, first), lambda: speed_of_caffe(path, first, last)
        )
    report("LeNet, lrbench train / caffe train", [a / b for a, b in pairs], "", 0.99, worse=min)


def speed_of_caffe(path: str, first: int, last: int, *options: str) -> float:
    """Return the iterations a second of `caffe train`, by the times in its log."""
    command = ["caffe", "train", "--solver", path, "--logtostderr=1", "--minloglevel=0", *options]
    log = subprocess.run(
        command,
        check=True,
        env=dict(os.environ, GLOG_minloglevel="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
    start, end = (logged_time(log, iteration) for iteration in (first, last))
    return (last - first) / (end - start)


def logged_time(log: str, iteration: int) -> float:
    """Return the time of day, in seconds, at which Caffe logged an iteration."""
    line = next(line for line in log.splitlines() if "Iteration %d (" % iteration in line)
    match = re.match(r"I\d+ (\d+):(\d+):([\d.]+)", line)
    if not match:
        raise ValueError("Caffe's log has a line without a time: %s" % line)
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def speed_of_lrbench(path: str, first: int, *options: str) -> float:
    """Return the iterations a second of `lrbench train` from an iteration on."""
    command = [sys.executable, "-m", "lrbench_caffe", "train", path, "--policy", POLICY, "--json"]
    command += options
    points = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as process:
        for line in process.stdout or ():
            event = json.loads(line)
            if event["event"] == "progress" and event["iteration"] >= first:
                points.append((time.monotonic(), event["iteration"]))
    if len(points) < 2:
        raise RuntimeError("lrbench train ended with status %d too early" % process.returncode)
    return speed(points)


def speed(points: Sequence[tuple[float, int]]) -> float:
    """Return the iterations a second between the first and the last (seconds, iteration)."""
    (start, first), (end, last) = points[0], points[-1]
    return (last - first) / (end - start)


def study() -> None:
    """Compare one job with as many jobs as there are cores: LeNet's iterations a second."""
    from conftest import private_home

    from lrbench_caffe.study.cores import usable_cores

    cores = usable_cores()
    with private_home(), tempfile.TemporaryDirectory() as folder:
        path = write_lenet(folder, max_iter=200, test_interval=10**6, test_initialization=False)
        pairs = paired(lambda: speed_of_jobs(path, cores), lambda: speed_of_jobs(path, 1))
    report(
        "LeNet, %d jobs / one job and its %d-fold" % (cores, cores),
        [a / b / cores for a, b in pairs],
        "",
        0.95,
        worse=min,
    )


def speed_of_jobs(path: str, count: int) -> float:
    """Return the iterations a second of all jobs together, from iteration 20 on."""
    from lrbench_caffe import study
    from lrbench_caffe.study.cores import Cores
    from lrbench_caffe.trial import Job

    points: dict[int | None, list[tuple[float, int]]] = {seed: [] for seed in range(count)}

    def on_event(job: Job, kind: str, content: Any) -> None:
        if kind == "progress" and content["iteration"] >= 20:
            points[job.seed].append((time.monotonic(), content["iteration"]))

    jobs = [Job(path, policy=POLICY, seed=seed) for seed in range(count)]
    display = SimpleNamespace(begin=lambda jobs: None, note=print, on_event=on_event)
    study.run_jobs(jobs, Cores(count), display)
    return sum(speed(points_of_job) for points_of_job in points.values())


def scale(trials: int = 10000, evaluations: int = 280) -> None:
    """Measure the cost of a study itself: the trainings are simulated, everything else is real.

    Compares the CPU time of a trial in the last tenth of the study with one in the first tenth, and
    measures the memory.
    """
    from conftest import private_home
    from simulation import measure

    from lrbench_caffe.database import server

    with private_home(room=2**33):
        first, last, megabytes = measure(server.start(), trials, evaluations)
    print(
        "%d trials of %d evaluations: CPU time of a trial %.2f ms in the first tenth, %.2f ms in"
        " the last" % (trials, evaluations, 1e3 * first, 1e3 * last),
        flush=True,
    )
    report("a study's own cost, last tenth / first", [last / first], "", 1.2)
    report("a study's own memory", [megabytes], "MB", 300)


TINY = """
max_iter: 100000000 lr_policy: "fixed" base_lr: 0.01 momentum: 0.9
snapshot_after_train: false solver_mode: CPU
train_net_param {
  layer { name: "data" type: "DummyData" top: "data" top: "label"
    dummy_data_param { shape { dim: 4 dim: 4 } shape { dim: 4 }
      data_filler { type: "constant" value: 1 } data_filler { type: "constant" } } }
  layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
    inner_product_param { num_output: 4 } }
  layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
  layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
    inner_product_param { num_output: 10 } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" } }
"""


def monitor() -> None:
    """Compare the main loop and its monitor with Caffe's own loop.

    The net is so small that an iteration takes a few microseconds.
    """
    import caffe
    from caffe.proto import caffe_pb2

    from lrbench_caffe.policies import Policy
    from lrbench_caffe.training import solver as loop
    from lrbench_caffe.training.monitor import Monitor

    iterations = 20000
    caffe.set_mode_cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tiny.prototxt")
        with open(path, "w") as file:
            file.write(TINY)
        plain, monitored = caffe.get_solver(path), caffe.get_solver(path)
    policy = Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)")
    lr_monitor = Monitor(monitored, policy, native=False)
    param = caffe_pb2.SolverParameter(
        max_iter=10**9, test_interval=10**9, test_iter=[1], test_initialization=False
    )
    plan = loop.Plan(param, None)

    def main_loop() -> float:
        """Train until a progress event comes after at least `iterations`; return us/iteration."""
        stop, first = threading.Event(), monitored.iter

        def on_event(kind: str, content: Any) -> None:
            if content["iteration"] - first >= iterations:
                stop.set()

        seconds = timed(lambda: loop.train(monitored, lr_monitor, plan, on_event, stop))
        lr_monitor.losses.clear()
        return 1e6 * seconds / (monitored.iter - first)

    def caffes_loop() -> float:
        return 1e6 * timed(lambda: plain.step(iterations)) / iterations

    pairs = paired(main_loop, caffes_loop, pairs=25)
    report(
        "the main loop above Caffe's own of %.1f us" % statistics.median(b for _, b in pairs),
        [a - b for a, b in pairs],
        "us",
        1,
    )


def evaluation() -> None:
    """Compare an evaluation with all metrics with Caffe's test pass: accuracy and loss only."""
    import caffe

    from lrbench_caffe.training import prototxt
    from lrbench_caffe.training import solver as loop
    from lrbench_caffe.training.evaluation import evaluate
    from lrbench_caffe.training.lr_policy import policy_from_solver
    from lrbench_caffe.training.measurement import add_metrics_layers
    from lrbench_caffe.training.monitor import Monitor

    caffe.set_mode_cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = write_lenet(folder)
        param = prototxt.resolve(prototxt.read_solver(path), path)
        plain = loop.create_solver(param)
        measurement = add_metrics_layers(param)
        measured = loop.create_solver(param)
        lr_monitor = Monitor(measured, policy_from_solver(param), True)

        def accuracy_only() -> None:
            net = plain.test_nets[0]
            net.share_with(plain.net)
            for _ in range(20):
                net._forward(0, len(net.layers) - 1)

        def all_metrics() -> None:
            stop = threading.Event()
            evaluate(measured, lr_monitor, measurement, [20], stop, on_note=print)

        pairs = paired(lambda: timed(all_metrics), lambda: timed(accuracy_only), pairs=15)
    report("an evaluation / Caffe's accuracy-only test pass", [a / b for a, b in pairs], "", 1.03)


def policies() -> None:
    """Measure policy(t) of one iteration, and compare a million with numpy's cost of the formula.

    The formulas are written as in Table I.
    """
    import numpy as np

    from lrbench_caffe.policies import Policy

    t = np.arange(1000000)
    pi, l = np.pi, 2000
    formulas = {
        "FIX(k0=0.1)": lambda: np.full(t.shape, 0.1),
        "STEP(k0=0.1, gamma=0.85, l=2000)": lambda: 0.1 * 0.85 ** np.floor(t / l),
        "NSTEP(k0=0.1, gamma=0.9, l=[5000, 7000, 8000])": lambda: (
            0.1 * 0.9 ** np.searchsorted([5000, 7000, 8000], t, side="right")
        ),
        "EXP(k0=0.1, gamma=0.9999)": lambda: 0.1 * 0.9999**t,
        "INV(k0=0.1, gamma=0.0001, p=0.75)": lambda: 0.1 * (1 + 0.0001 * t) ** -0.75,
        "POLY(k0=0.1, p=1.2, l=1000000)": lambda: 0.1 * (1 - t / 1000000) ** 1.2,
        "TRI(k0=0.01, k1=0.06, l=2000)": lambda: (
            0.05 * 2 / pi * np.abs(np.arcsin(np.sin(pi * t / (2 * l)))) + 0.01
        ),
        "TRI2(k0=0.01, k1=0.06, l=2000)": lambda: (
            0.05 * 2 / pi * np.abs(np.arcsin(np.sin(pi * t / (2 * l)))) / 2 ** np.floor(t / (2 * l))
            + 0.01
        ),
        "TRIEXP(k0=0.01, k1=0.06, gamma=0.9, l=2000)": lambda: (
            0.05 * 2 / pi * np.abs(np.arcsin(np.sin(pi * t / (2 * l)))) * 0.9**t + 0.01
        ),
        "SIN(k0=0.01, k1=0.06, l=2000)": lambda: 0.05 * np.abs(np.sin(pi * t / (2 * l))) + 0.01,
        "SIN2(k0=0.01, k1=0.06, l=2000)": lambda: (
            0.05 * np.abs(np.sin(pi * t / (2 * l))) / 2 ** np.floor(t / (2 * l)) + 0.01
        ),
        "SINEXP(k0=0.01, k1=0.06, gamma=0.9, l=2000)": lambda: (
            0.05 * np.abs(np.sin(pi * t / (2 * l))) * 0.9**t + 0.01
        ),
        "COS(k0=0.01, k1=0.06, l=2000)": lambda: 0.05 * (1 + np.cos(pi * t / l)) / 2 + 0.01,
    }
    for text, formula in formulas.items():
        time_policy(Policy.parse(text), t, formula)


def time_policy(policy: Any, t: Any, formula: Callable[[], Any]) -> None:
    """Measure a policy for one iteration, and for the iterations t compared with its formula."""
    times = timeit.repeat(lambda: policy(4321), number=10000, repeat=PAIRS)
    microseconds = [1e6 * seconds / 10000 for seconds in times]
    report("%s, one iteration" % policy.function, microseconds, "us", 1)
    pairs = paired(
        lambda: timeit.timeit(lambda: policy(t), number=3),
        lambda: timeit.timeit(formula, number=3),
    )
    report("%s, a million / numpy's own" % policy.function, [a / b for a, b in pairs], "", 2)


def command_line() -> None:
    """Measure `lrbench --help`, and what docker/run adds to a command in a built environment."""

    def seconds(*command: str) -> float:
        return timed(
            lambda: subprocess.run(
                command, check=True, stdout=subprocess.DEVNULL, env=environment()
            )
        )

    help_command = (sys.executable, "-m", "lrbench_caffe", "--help")
    report("lrbench --help", [seconds(*help_command) for _ in range(PAIRS + 1)][1:], "s", 0.3)
    docker_run = os.path.join(ROOT, "docker", "run")
    pairs = paired(lambda: seconds(docker_run, "true"), lambda: seconds("true"))
    report("docker/run true", [a - b for a, b in pairs], "s", 0.3)


FILL = """
    INSERT INTO framework (name, version) VALUES ('Caffe', '1.0.0');
    INSERT INTO network (name, hash, prototxt) VALUES ('net', encode(sha256('x'), 'hex'), 'x');
    INSERT INTO dataset (name, shape, train_samples, test_samples)
        VALUES ('data', '{1,28,28}', 60000, 10000);
    INSERT INTO task (classes) VALUES (10);
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT format('FIX(k0=%%s)', n), 'FIX', jsonb_build_object('k0', n::float8 + 0.5), 1
        FROM generate_series(1, 1000) n;
    UPDATE policy SET text = format('FIX(k0=%%s)', parameters->>'k0');
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver,
                       seed, host, blas, threads, state, started_at, ended_at)
        SELECT md5(n::text)::uuid, 1, 1, 1, 1, 1 + n %% 1000,
               '{"type": "SGD", "momentum": 0.9, "max_iter": 10000, "batch_size": 100}',
               n, 'host', 'openblas 0.3.13 SkylakeX', 1, 'finished', now(), now()
        FROM generate_series(1, %(trials)s) n;
    INSERT INTO evaluation
        SELECT id, 500 * n, random(), random(), random(), random(), random(), random(), random(),
               random(), random()
        FROM trial, generate_series(0, %(rows)s - 1) n;
    UPDATE trial SET (best_iteration, best_top1) = (
        SELECT iteration, top1 FROM evaluation WHERE trial_id = id
        ORDER BY top1 DESC, iteration LIMIT 1)"""
TABLES = ("framework", "network", "dataset", "task", "policy", "trial", "evaluation")


def exchange(trials: int = 100000, rows: int = 20) -> None:
    """Compare `lrbench db import` with psycopg2's COPY of the same rows; measure its memory."""
    import resource

    import psycopg2
    from conftest import private_home

    from lrbench_caffe.database import Store, exchange, server

    with private_home(room=2**33) as home:
        dsn, path = server.start(), str(home / "trials.jsonl")

        def execute(database: str, *statements: Sequence[Any]) -> None:
            connection = psycopg2.connect(dsn + " dbname=" + database)
            connection.autocommit = True
            for statement in statements:
                connection.cursor().execute(*statement)
            connection.close()

        def create(name: str) -> str:
            """Create an empty database; return its DSN."""
            execute("lrbench", ["DROP DATABASE IF EXISTS " + name], ["CREATE DATABASE " + name])
            Store(dsn + " dbname=" + name).close()
            execute(name, ["CHECKPOINT"])
            return dsn + " dbname=" + name

        source = create("source")
        execute("source", [FILL, {"trials": trials, "rows": rows}], ["ANALYZE"])
        seconds = timed(lambda: exchange.export_trials(path, source, {}))
        megabytes = os.path.getsize(path) / 1e6
        print("export: %d trials a second, %.0f MB" % (trials / seconds, megabytes))
        connection = psycopg2.connect(source)
        for table in TABLES:
            with open(str(home / table), "w") as file:
                connection.cursor().copy_expert("COPY %s TO STDOUT" % table, file)
        connection.close()

        def import_speed() -> float:
            target = create("imported")
            return trials / timed(lambda: exchange.import_trials(path, target))

        def copy_speed() -> float:
            connection = psycopg2.connect(create("copied"))

            def copy() -> None:
                with connection, connection.cursor() as cursor:
                    for table in TABLES:
                        with open(str(home / table)) as file:
                            cursor.copy_expert("COPY %s FROM STDIN" % table, file)

            seconds = timed(copy)
            connection.close()
            return trials / seconds

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pairs = paired(import_speed, copy_speed, pairs=3)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        "import: %.0f trials of %d rows a second, COPY %.0f; memory grew by %.0f MB"
        % (
            statistics.median(a for a, _ in pairs),
            rows,
            statistics.median(b for _, b in pairs),
            (after - before) / 1024,
        )
    )
    report(
        "import of %d trials / COPY of their rows" % trials,
        [a / b for a, b in pairs],
        "",
        1 / 3,
        worse=min,
    )


MILLION = """
    INSERT INTO framework (name, version) VALUES ('Caffe', '1.0.0');
    INSERT INTO task (classes) VALUES (10);
    INSERT INTO network (name, hash, prototxt)
        SELECT 'net' || n, encode(sha256(n::text::bytea), 'hex'),
               repeat(E'layer {\n  type: "Convolution"\n}\n', 20 * n)
        FROM generate_series(1, 20) n;
    INSERT INTO dataset (name, shape, train_samples, test_samples)
        SELECT 'data' || n, ARRAY[1 + n %% 3, 20 + n, 20 + n], 10000 * n, 10000
        FROM generate_series(1, 10) n;
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT format('FIX(k0=%%s)', k0), 'FIX', jsonb_build_object('k0', k0), 1
        FROM (SELECT n / 1000.0::float8 AS k0 FROM generate_series(1, 50) n) k
        UNION ALL
        SELECT format('SIN2(k0=0.01, k1=0.06, l=%%s)', n), 'SIN2',
               jsonb_build_object('k0', 0.01, 'k1', 0.06, 'l', n), 3
        FROM generate_series(51, 500) n;
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed,
                       host, blas, threads, state, started_at, ended_at, best_iteration, best_top1)
        SELECT md5(n::text)::uuid, 1, 1 + n %% 20, 1 + n / 20 %% 10, 1, 1 + n / 200 %% 500,
               '{"type": "SGD", "momentum": 0.9, "max_iter": 10000, "batch_size": 100}',
               n / 100000, 'host', 'openblas 0.3.13 SkylakeX', 1, 'finished', now(), now(), 500,
               0.5 + random() / 2
        FROM generate_series(0, %(trials)s - 1) n;
    INSERT INTO evaluation (trial_id, iteration, lr, test_loss, top1, top5)
        SELECT id, 500, 0.01, 0.1, best_top1, 1 FROM trial"""


def recommend(trials: int = 1000000) -> None:
    """Measure recommendations and the end of a trial in a database with a million trials."""
    import psycopg2
    from conftest import private_home

    from lrbench_caffe.database import Store, server

    with private_home(room=2**33):
        dsn = server.start()
        Store(dsn).close()
        connection = psycopg2.connect(dsn)
        start = time.perf_counter()
        with connection, connection.cursor() as cursor:
            cursor.execute(MILLION, {"trials": trials})
        connection.autocommit = True
        connection.cursor().execute("ANALYZE")
        connection.close()
        seconds = time.perf_counter() - start
        print("%d trials inserted in %.0f s" % (trials, seconds), flush=True)
        with Store(dsn) as store:
            time_recommendations(store)
            time_ends(store)


def time_recommendations(store: Store) -> None:
    """Measure a recommendation for a task in the database, and one for similar tasks."""
    from lrbench_caffe.evaluator import recommendation
    from lrbench_caffe.trial import Dataset, Network

    def same_task() -> recommendation.Recommendation:
        query = recommendation.query_by_names(store, "data3", "net7")
        return recommendation.recommend(store, query)

    network = Network("mine", "0" * 64, 'layer {\n  type: "Convolution"\n}\n' * 30)
    dataset = Dataset("mine", (1, 28, 28), 60000, 10000)
    query = recommendation.Query(dataset, network, 10, {"type": "SGD", "batch_size": 64})

    def similar_tasks() -> recommendation.Recommendation:
        return recommendation.recommend(store, query)

    for name, ask in (("the same task", same_task), ("similar tasks", similar_tasks)):
        assert ask().tasks[0].policies
        report("recommend, %s" % name, [1e3 * timed(ask) for _ in range(31)], "ms", 20)


def time_ends(store: Store) -> None:
    """Measure the end of a trial, which updates the standing of its policy."""

    def select(cursor: Any) -> list[Any]:
        cursor.execute("SELECT id::text FROM trial LIMIT 31")
        return cursor.fetchall()

    def milliseconds(ids: Sequence[str]) -> Iterator[float]:
        for trial_id in ids:
            start = time.perf_counter()
            store.end(trial_id, "finished", 1.8e9)
            yield 1e3 * (time.perf_counter() - start)

    ids = [row.id for row in store.transaction(select)]
    report("the end of a trial", list(milliseconds(ids)), "ms", 20)


BENCHMARKS = {
    "training": training,
    "study": study,
    "scale": scale,
    "monitor": monitor,
    "evaluation": evaluation,
    "policies": policies,
    "command_line": command_line,
    "exchange": exchange,
    "recommend": recommend,
}

if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("GLOG_minloglevel", "2")
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit("unknown benchmark %s: it is one of %s" % (name, ", ".join(BENCHMARKS)))
        BENCHMARKS[name]()
