"""What LRBench costs beside Caffe itself: `make bench`, or `docker/run python3 benchmarks/overhead.py [NAME ...]`.

Every figure is the ratio or difference of pairs of runs in this one call, as its median with the smallest and the largest, so
that it holds on a machine whose speed drifts.  LeNet runs on random images of MNIST's shape: its speed does not depend on them.
"""

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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

PAIRS = 7


def report(name, values, unit, limit, worse=max):
    """One line: the median of the pairs, their spread, and whether it keeps to its limit."""
    median = statistics.median(values)
    kept = "kept" if worse(median, limit) == limit else "NOT KEPT"
    print(
        "%-52s %8.3f %-10s [%.3f to %.3f, %d pairs]  limit %g: %s"
        % (name, median, unit, min(values), max(values), len(values), limit, kept),
        flush=True,
    )


def paired(one, other, pairs=PAIRS):
    """Pairs of measurements, the two in turn, after one of each that is not counted."""
    one(), other()
    return [(one(), other()) for _ in range(pairs)]


def lenet(folder, **settings):
    """A solver prototxt for LeNet in folder, with data, and some settings changed; returns its path."""
    from nets import random_lmdb

    for part, samples in (("train", 6000), ("test", 2000)):
        if not os.path.exists(os.path.join(folder, "mnist_%s_lmdb" % part)):
            random_lmdb(os.path.join(folder, "mnist_%s_lmdb" % part), samples)
    from caffe.proto import caffe_pb2

    from lrbench_caffe.training import prototxt

    solver = prototxt.read_solver(os.path.join(ROOT, "solvers", "lenet_solver.prototxt"))
    solver.test_iter[:] = [20]
    for name, value in settings.items():
        setattr(solver, name, value)
    solver = prototxt.resolve(
        solver, os.path.join(ROOT, "solvers", "lenet_solver.prototxt"), folder
    )
    solver.snapshot_prefix = os.path.join(folder, "snapshot")
    solver.solver_mode = caffe_pb2.SolverParameter.CPU
    path = os.path.join(folder, "solver.prototxt")
    prototxt.write_solver(solver, path)
    return path


def training():
    """LeNet through `lrbench train` against `caffe train`: iterations a second from iteration 20 to 170 of both."""
    first, last = 20, 170
    with tempfile.TemporaryDirectory() as folder:
        path = lenet(
            folder,
            max_iter=last + 1,
            test_interval=10**6,
            test_initialization=False,
            display=10,
            random_seed=1,
        )

        def caffe_train():
            lines = subprocess.run(
                ["caffe", "train", "--solver", path, "--logtostderr=1", "--minloglevel=0"],
                check=True,
                env=dict(os.environ, GLOG_minloglevel="0"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ).stdout.splitlines()
            start, end = (
                next(
                    re.match(r"I\d+ (\d+):(\d+):([\d.]+)", line).groups()
                    for line in lines
                    if "Iteration %d (" % iteration in line
                )
                for iteration in (first, last)
            )
            seconds = [3600 * int(h) + 60 * int(m) + float(s) for h, m, s in (start, end)]
            return (last - first) / (seconds[1] - seconds[0])

        def lrbench_train():
            trainer = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lrbench_caffe",
                    "train",
                    path,
                    "--policy",
                    "SIN2(k0=0.01, k1=0.06, l=2000)",
                    "--json",
                ],
                stdout=subprocess.PIPE,
                env=dict(os.environ, PYTHONPATH=ROOT),
            )
            seen = []
            for line in trainer.stdout:
                event = json.loads(line.decode())
                if event["event"] == "progress" and event["iteration"] >= first:
                    seen.append((time.monotonic(), event["iteration"]))
            trainer.wait()
            return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

        pairs = paired(lrbench_train, caffe_train)
    report("LeNet, lrbench train / caffe train", [a / b for a, b in pairs], "", 0.99, worse=min)


def study():
    """LeNet in as many jobs as there are cores against one job: iterations a second of all jobs together, from iteration 20 on."""
    from conftest import private_home

    from lrbench_caffe import study as trainings
    from lrbench_caffe.study.cores import Cores, usable_cores
    from lrbench_caffe.trial import Job

    cores = usable_cores()
    with private_home(), tempfile.TemporaryDirectory() as folder:
        path = lenet(folder, max_iter=200, test_interval=10**6, test_initialization=False)

        def speed(jobs):
            seen = [[] for _ in range(jobs)]

            def listen(job, kind, content):
                if kind == "progress" and content["iteration"] >= 20:
                    seen[job.seed].append((time.monotonic(), content["iteration"]))

            trainings.run_jobs(
                [
                    Job(path, policy="SIN2(k0=0.01, k1=0.06, l=2000)", seed=seed)
                    for seed in range(jobs)
                ],
                Cores(jobs),
                SimpleNamespace(begin=lambda jobs: None, note=print, on_event=listen),
            )
            return sum((last[1] - first[1]) / (last[0] - first[0]) for first, *_, last in seen)

        pairs = paired(lambda: speed(cores), lambda: speed(1))
    report(
        "LeNet, %d jobs / one job and its %d-fold" % (cores, cores),
        [a / b / cores for a, b in pairs],
        "",
        0.95,
        worse=min,
    )


def scale(trials=10000, evaluations=280):
    """A study's own cost, a fake training function and the real rest: a trial of the last tenth against one of the first; memory."""
    from conftest import private_home
    from simulation import measure

    from lrbench_caffe.database import server

    with private_home(room=2**33):
        first, last, megabytes = measure(server.start(), trials, evaluations)
    print(
        "%d trials of %d evaluations: %.2f ms of the CPU a trial in the first tenth, %.2f in the last"
        % (trials, evaluations, 1e3 * first, 1e3 * last),
        flush=True,
    )
    report("a study's own cost, last tenth / first", [last / first], "", 1.2)
    report("a study's own memory", [megabytes], "MB", 300)


TINY = """max_iter: 100000000 lr_policy: "fixed" base_lr: 0.01 momentum: 0.9 snapshot_after_train: false solver_mode: CPU
train_net_param {
  layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 4 } shape { dim: 4 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" } } }
  layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 4 } }
  layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
  layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 10 } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" } }
"""


def monitor():
    """A net whose iteration takes a few microseconds: the main loop with the monitor against Caffe's own."""
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
        plain, watched = caffe.get_solver(path), caffe.get_solver(path)
    watch = Monitor(watched, Policy.parse("SIN2(k0=0.01, k1=0.06, l=2000)"), native=False)
    plan = loop.Plan(
        caffe_pb2.SolverParameter(
            max_iter=10**9, test_interval=10**9, test_iter=[1], test_initialization=False
        )
    )

    def main_loop():
        """Until the second look at the clock after so many iterations: the first is after one."""
        stop, start, first = threading.Event(), time.perf_counter(), watched.iter

        def look(kind, at):
            if at["iteration"] - first >= iterations:
                stop.set()

        loop.train(watched, watch, plan, look, stop)
        watch.losses.clear()
        return 1e6 * (time.perf_counter() - start) / (watched.iter - first)

    def caffes_own():
        start = time.perf_counter()
        plain.step(iterations)
        return 1e6 * (time.perf_counter() - start) / iterations

    pairs = paired(main_loop, caffes_own, pairs=25)
    report(
        "the main loop above Caffe's own of %.1f us" % statistics.median(b for _, b in pairs),
        [a - b for a, b in pairs],
        "us",
        1,
    )


def evaluation():
    """A full evaluation with all metrics against the same net's test pass as Caffe does it, accuracy and loss only."""
    import caffe

    from lrbench_caffe.training import prototxt
    from lrbench_caffe.training import solver as loop
    from lrbench_caffe.training.monitor import Monitor, policy_from_solver

    caffe.set_mode_cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = lenet(folder)
        param = prototxt.resolve(prototxt.read_solver(path), path)
        plain = loop.create_solver(param)
        prototxt.add_metrics_layer(param)
        measured = loop.create_solver(param)
        watch = Monitor(measured, policy_from_solver(param), True)

        def accuracy_only():
            net = plain.test_nets[0]
            net.share_with(plain.net)
            for _ in range(20):
                net._forward(0, len(net.layers) - 1)

        def timed(work):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        pairs = paired(
            lambda: timed(lambda: loop.evaluate(measured, watch, 20, threading.Event())),
            lambda: timed(accuracy_only),
            pairs=15,
        )
    report("an evaluation / Caffe's accuracy-only test pass", [a / b for a, b in pairs], "", 1.03)


def policies():
    """policy(t) for an int, and for a million iterations against numpy's own cost for the formula as Table I writes it."""
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
        policy = Policy.parse(text)
        one = timeit.repeat(lambda: policy(4321), number=10000, repeat=PAIRS)
        report(
            "%s, one iteration" % policy.function,
            [1e6 * seconds / 10000 for seconds in one],
            "us",
            1,
        )
        pairs = paired(
            lambda: timeit.timeit(lambda: policy(t), number=3),
            lambda: timeit.timeit(formula, number=3),
        )
        report("%s, a million / numpy's own" % policy.function, [a / b for a, b in pairs], "", 2)


def command_line():
    """`lrbench --help` as a whole process, and what docker/run adds to a command where Caffe's environment is there."""

    def seconds(*command):
        start = time.perf_counter()
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, PYTHONPATH=ROOT)
        )
        return time.perf_counter() - start

    pairs = paired(lambda: seconds(sys.executable, "-m", "lrbench_caffe", "--help"), lambda: None)
    report("lrbench --help", [a for a, _ in pairs], "s", 0.3)
    pairs = paired(
        lambda: seconds(os.path.join(ROOT, "docker", "run"), "true"), lambda: seconds("true")
    )
    report("docker/run true", [a - b for a, b in pairs], "s", 0.3)


FILL = """
    INSERT INTO framework (name, version) VALUES ('Caffe', '1.0.0');
    INSERT INTO network (name, hash, prototxt) VALUES ('net', encode(sha256('x'), 'hex'), 'x');
    INSERT INTO dataset (name, shape, train_samples, test_samples) VALUES ('data', '{1,28,28}', 60000, 10000);
    INSERT INTO task (classes) VALUES (10);
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT format('FIX(k0=%%s)', n), 'FIX', jsonb_build_object('k0', n::float8 + 0.5), 1 FROM generate_series(1, 1000) n;
    UPDATE policy SET text = format('FIX(k0=%%s)', parameters->>'k0');
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host, blas, threads, state,
                       started_at, ended_at)
        SELECT md5(n::text)::uuid, 1, 1, 1, 1, 1 + n %% 1000, '{"type": "SGD", "momentum": 0.9, "max_iter": 10000, "batch_size": 100}', n,
               'host', 'openblas 0.3.13 SkylakeX', 1, 'finished', now(), now() FROM generate_series(1, %(trials)s) n;
    INSERT INTO evaluation SELECT id, 500 * n, random(), random(), random(), random(), random(), random(), random(), random(), random()
        FROM trial, generate_series(0, %(rows)s - 1) n;
    UPDATE trial SET (best_iteration, best_top1) = (SELECT iteration, top1 FROM evaluation WHERE trial_id = id
                                                    ORDER BY top1 DESC, iteration LIMIT 1)"""


def exchange(trials=100000, rows=20):
    """`lrbench db import` of 100,000 trials against psycopg2's COPY of the same rows into the same tables; and its memory."""
    import resource

    import psycopg2
    from conftest import private_home

    from lrbench_caffe.database import Store, exchange, server

    with private_home(room=2**33) as home:
        dsn, path = server.start(), str(home / "trials.jsonl")

        def execute(database, *statements):
            connection = psycopg2.connect(dsn + " dbname=" + database)
            connection.autocommit = True
            for statement in statements:
                connection.cursor().execute(*statement)
            connection.close()

        def fresh(name):
            execute("lrbench", ["DROP DATABASE IF EXISTS " + name], ["CREATE DATABASE " + name])
            Store(dsn + " dbname=" + name).close()
            execute(name, ["CHECKPOINT"])
            return dsn + " dbname=" + name

        def timed(work):
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        fresh("filled")
        execute("filled", [FILL, {"trials": trials, "rows": rows}], ["ANALYZE"])
        seconds = timed(lambda: exchange.export_trials(path, dsn + " dbname=filled", {}))
        print(
            "export: %d trials a second, %.0f MB" % (trials / seconds, os.path.getsize(path) / 1e6)
        )
        tables = ("framework", "network", "dataset", "task", "policy", "trial", "evaluation")
        source = psycopg2.connect(dsn + " dbname=filled")
        for table in tables:
            with open(str(home / table), "w") as file:
                source.cursor().copy_expert("COPY %s TO STDOUT" % table, file)
        source.close()

        def imported():
            address = fresh("imported")
            return trials / timed(lambda: exchange.import_trials(path, address))

        def copied():
            connection = psycopg2.connect(fresh("copied"))

            def copy():
                with connection, connection.cursor() as cursor:
                    for table in tables:
                        with open(str(home / table)) as file:
                            cursor.copy_expert("COPY %s FROM STDIN" % table, file)

            seconds = timed(copy)
            connection.close()
            return trials / seconds

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pairs = paired(imported, copied, pairs=3)
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
        SELECT 'net' || n, encode(sha256(n::text::bytea), 'hex'), repeat(E'layer {\n  type: "Convolution"\n}\n', 20 * n)
        FROM generate_series(1, 20) n;
    INSERT INTO dataset (name, shape, train_samples, test_samples) SELECT 'data' || n, ARRAY[1 + n %% 3, 20 + n, 20 + n], 10000 * n, 10000
        FROM generate_series(1, 10) n;
    INSERT INTO policy (text, function, parameters, n_params)
        SELECT format('FIX(k0=%%s)', k0), 'FIX', jsonb_build_object('k0', k0), 1 FROM (SELECT n / 1000.0::float8 AS k0 FROM generate_series(1, 50) n) k
        UNION ALL
        SELECT format('SIN2(k0=0.01, k1=0.06, l=%%s)', n), 'SIN2', jsonb_build_object('k0', 0.01, 'k1', 0.06, 'l', n), 3
        FROM generate_series(51, 500) n;
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host, blas, threads, state, started_at, ended_at,
                       best_iteration, best_top1)
        SELECT md5(n::text)::uuid, 1, 1 + n %% 20, 1 + n / 20 %% 10, 1, 1 + n / 200 %% 500,
               '{"type": "SGD", "momentum": 0.9, "max_iter": 10000, "batch_size": 100}', n / 100000, 'host', 'openblas 0.3.13 SkylakeX', 1,
               'finished', now(), now(), 500, 0.5 + random() / 2 FROM generate_series(0, %(trials)s - 1) n;
    INSERT INTO evaluation (trial_id, iteration, lr, test_loss, top1, top5) SELECT id, 500, 0.01, 0.1, best_top1, 1 FROM trial"""


def recommend(trials=1000000):
    """A recommendation with a million trials in the database, of the task itself and of similar ones; what the end of a trial costs."""
    import psycopg2
    from conftest import private_home

    from lrbench_caffe.database import Store, server
    from lrbench_caffe.evaluator import recommendation
    from lrbench_caffe.trial import Dataset, Network

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
        print(
            "%d trials filled in within %.0f s" % (trials, time.perf_counter() - start), flush=True
        )
        with Store(dsn) as store:
            net = Network("mine", "0" * 64, 'layer {\n  type: "Convolution"\n}\n' * 30)
            other = recommendation.Query(
                Dataset("mine", (1, 28, 28), 60000, 10000),
                net,
                10,
                {"type": "SGD", "batch_size": 64},
            )
            for what, ask in (
                (
                    "the same task",
                    lambda: recommendation.recommend(
                        store, recommendation.query_by_names(store, "data3", "net7")
                    ),
                ),
                ("similar tasks", lambda: recommendation.recommend(store, other)),
            ):
                assert ask().known[0].policies
                report(
                    "recommend, %s" % what,
                    [1e3 * timeit.timeit(ask, number=1) for _ in range(31)],
                    "ms",
                    20,
                )
            ended = store.transaction(
                lambda cursor: (
                    cursor.execute("SELECT id::text FROM trial LIMIT 31") or cursor.fetchall()
                )
            )
            report(
                "the end of a trial",
                [
                    1e3 * timeit.timeit(lambda: store.end(line.id, "finished", 1.8e9), number=1)
                    for line in ended
                ],
                "ms",
                20,
            )


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
            sys.exit("no benchmark %s: there are %s" % (name, ", ".join(BENCHMARKS)))
        BENCHMARKS[name]()
