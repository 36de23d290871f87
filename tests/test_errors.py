"""Errors of `lrbench train`.

Invalid input ends with one sentence that names the mistake and its remedy, with exit status 2, and
without a traceback. If Caffe aborts nevertheless, the trial fails with Caffe's message and exit
status 1.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import threading
from typing import List, NamedTuple, Optional, Sequence

import nets
import pytest
from gate import Gate
from processes import children, trainings
from studies import start
from waiting import LIMIT, wait_until

pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")

NO_LABELS = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'


def data_without_labels(text):
    return text.replace(
        'top: "data" top: "label" include { phase: TEST }', 'top: "data" include { phase: TEST }'
    )


class Case(NamedTuple):
    """An invalid training: the files and arguments of `lrbench train`, and parts of its message."""

    expected: List[str]
    solver: Optional[str] = None
    net: Optional[str] = None
    arguments: Sequence[str] = ()


FORESEEN = {
    "a missing solver": Case(["no/such.prototxt", "No such file"], arguments=["no/such.prototxt"]),
    "a solver that is not a prototxt": Case(
        ["solver.prototxt", "not a valid solver prototxt"], solver="net: oops {"
    ),
    "a net instead of a solver": Case(
        ["solver.prototxt looks like a net, expected a solver prototxt: name the solver"],
        solver=nets.net(),
    ),
    "a solver instead of a net": Case(
        ["solver.prototxt looks like a solver, expected a net prototxt"],
        solver=nets.solver(net="solver.prototxt"),
    ),
    "a field that Caffe does not have": Case(
        ["learning_rate"], solver=nets.solver(more="learning_rate: 1")
    ),
    "a missing net": Case(["other.prototxt", "--data"], solver=nets.solver(net="other.prototxt")),
    "no net": Case(["no net"], solver=nets.solver().replace('net: "net.prototxt"', "")),
    "an unknown layer type": Case(
        ["relu1", "'RELU'", "did you mean ReLU?"],
        net=nets.net(body=nets.BODY.replace('"ReLU"', '"RELU"')),
    ),
    "a missing LMDB": Case(
        ["cifar_train_lmdb", "'train'", "--data"], net=nets.net(train="cifar_train_lmdb")
    ),
    "an LMDB read as LevelDB": Case(
        ["LMDB", "backend"], net=nets.net().replace("backend: LMDB", "")
    ),
    "more labels than classes": Case(
        ["0 to 9", "5 classes", "num_output"], net=nets.net(classes=5)
    ),
    "no labels": Case(
        ["not a classifier", "small", "Accuracy"],
        net=data_without_labels(
            nets.net(
                head=nets.LOSS.replace('top: "loss"', 'top: "loss" include { phase: TRAIN }')
                + NO_LABELS
            )
        ),
    ),
    "a regression": Case(
        ["not a classifier", "small", "SoftmaxWithLoss"],
        net=nets.net(
            head='layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "ip" top: "l" }'
        ),
    ),
    "a loss for several labels in a sample": Case(
        ["several labels", "'loss'", "one label"],
        net=nets.net(head=nets.LOSS.replace("SoftmaxWithLoss", "SigmoidCrossEntropyLoss")),
    ),
    "labels that do not fit the scores": Case(
        ["head m", "100 labels are expected instead of 6400"],
        net=nets.net(
            head=nets.LOSS + 'layer { name: "m" type: "Python" bottom: "ip" bottom: "data" '
            "include { phase: TEST } "
            'python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" '
            """param_str: '{"probabilities": false}' } }"""
        ),
    ),
    "a head that the net does not have": Case(
        ["'fc'", "its heads are ip"], arguments=["--head", "fc"]
    ),
    "a Top-1 to reach without a test net": Case(
        ["no test net", "--until-top1"],
        solver=nets.solver().replace("test_iter: 4", ""),
        arguments=["--until-top1", "0.9"],
    ),
    "an unknown lr_policy": Case(
        ["'stepp'", "did you mean step?"], solver=nets.solver('lr_policy: "stepp"')
    ),
    "a step policy without a stepsize": Case(
        ["stepsize"], solver=nets.solver('lr_policy: "step" gamma: 0.1')
    ),
    "a misspelt LRBench policy in the prototxt": Case(
        ["SIN2"], solver=nets.solver('lr_policy: "SIM2(k0=1, k1=2, l=3)"')
    ),
    "a policy without text": Case(["the policy ''"], arguments=["--policy", ""]),
    "a misspelt policy": Case(["TRI"], arguments=["--policy", "TRY(k0=1, k1=2, l=3)"]),
    "a POLY that ends too early": Case(["l=60"], arguments=["--policy", "POLY(k0=0.1, p=1, l=30)"]),
    "a GPU for a CPU-only Caffe": Case(
        ["GPU 0", "this Caffe is built for the CPU only", "--gpu"], arguments=["--gpu", "0"]
    ),
    "a missing folder for snapshots": Case(
        ["make the folder", "no/where", "--snapshot-prefix"],
        arguments=["--snapshot-prefix", "no/where/x"],
    ),
    "a missing snapshot": Case(
        ["x_iter_1.solverstate"], arguments=["--resume", "x_iter_1.solverstate"]
    ),
    "a snapshot that is not a solverstate": Case(
        ["solver.prototxt", "not a solver state"], arguments=["--resume", "solver.prototxt"]
    ),
    "a snapshot and weights": Case(
        ["not both"], arguments=["--resume", "net.prototxt", "--weights", "net.prototxt"]
    ),
    "missing weights": Case(
        ["the file of weights to start from, x.caffemodel, was not found"],
        arguments=["--weights", "x.caffemodel"],
    ),
    "a missing data folder": Case(["nowhere", "--data"], arguments=["--data", "nowhere"]),
    "an unknown optimizer": Case(
        ["'adam'", "did you mean Adam?"], solver=nets.solver(more='type: "adam"')
    ),
    "a setting that occurs twice": Case(["base_lr"], solver=nets.solver(more="base_lr: 0.5")),
    "no lr_policy": Case(["no lr_policy", "--policy"], solver=nets.solver("")),
    "a missing Python layer": Case(
        ["no_such_module", "PYTHONPATH"],
        net=nets.net(
            head=nets.LOSS + 'layer { name: "p" type: "Python" bottom: "ip" python_param { '
            'module: "no_such_module" layer: "L" } }'
        ),
    ),
    "a number out of range": Case(["max_iter"], solver=nets.solver(max_iter=3 * 10**9)),
    "scores instead of probabilities": Case(
        ["InnerProduct", "'ip'", "Softmax layer"],
        net=nets.net(
            head=nets.LOSS + 'layer { name: "m" type: "Python" bottom: "ip" bottom: "label" '
            "include { phase: TEST } "
            'python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" } }'
        ),
    ),
}


@pytest.mark.parametrize("mistake", sorted(FORESEEN))
def test_a_foreseen_mistake_is_an_error_in_one_sentence(
    mistake, tmp_path, digits, invoke, monkeypatch
):
    case = FORESEEN[mistake]
    path = nets.write(tmp_path, case.solver, case.net)
    solver = [] if mistake == "a missing solver" else [path]
    monkeypatch.chdir(str(tmp_path))
    done = invoke("train", "--data", digits, *solver, *case.arguments)
    last_line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert all(part in last_line for part in case.expected), last_line
    assert "Traceback" not in done.stderr and len(last_line) < 600


def test_an_lmdb_that_another_container_reads_with_the_same_process_id(tmp_path, digits, invoke):
    """LMDB locks the byte at its process id in the lock file. This test locks all bytes."""
    shutil.copytree(digits, str(tmp_path / "data"))
    path = nets.write(tmp_path)
    with open(str(tmp_path / "data" / "digits_train_lmdb" / "lock.mdb"), "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX, 0, 1)
        done = invoke("train", path, "--data", str(tmp_path / "data"))
    last_line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, last_line
    assert "another container" in last_line and "read-only" in last_line
    assert "Traceback" not in done.stderr
    unlocked = invoke("train", path, "--data", str(tmp_path / "data"), "--max-iter", "1")
    assert unlocked.returncode == 0


def trial(dsn, network):
    """The only trial of a network in the database."""
    from lrbench_caffe.database import Store

    with Store(dsn) as store:
        (stored,) = store.trials(network=network)
    return stored


def test_an_abort_of_caffe_is_reported_with_its_message_and_the_trial_fails(
    tmp_path, digits, lrbench, dsn, monkeypatch
):
    """Caffe aborts when it builds a net with a kernel that is larger than its image."""
    body = nets.BODY.replace("kernel_size: 3", "kernel_size: 30")
    path = nets.write(tmp_path, net_text=nets.net(body=body).replace('"small"', '"aborts"'))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    done = lrbench("train", path, "--data", digits)
    assert done.returncode == 1 and "Check failed" in done.stderr and "Traceback" not in done.stderr
    assert not os.listdir(str(tmp_path / "temporary"))
    failed = trial(dsn, "aborts")
    assert failed.state == "failed" and "Check failed" in failed.error and failed.ended


def test_a_killed_training_is_reported_and_keeps_its_rows(tmp_path, digits, lrbench, dsn):
    path = nets.write(
        tmp_path, nets.solver(max_iter=10**6), nets.net().replace('"small"', '"killed"')
    )
    with running(path, digits) as parent:
        wait_for_rows(parent, 2)
        (child,) = trainings(parent.pid)
        os.kill(child, signal.SIGKILL)
        _, stderr = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 1 and "SIGKILL" in stderr and "Traceback" not in stderr
    failed = trial(dsn, "killed")
    assert failed.state == "failed" and len(failed.rows) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_ctrl_c_the_trial_is_interrupted_and_has_its_rows_and_a_snapshot(
    number, tmp_path, digits, lrbench, dsn
):
    name = "interrupted-%d" % number
    path = nets.write(
        tmp_path, nets.solver(max_iter=10**6), nets.net().replace('"small"', '"%s"' % name)
    )
    with running(path, digits, "--snapshot-prefix", str(tmp_path / "stopped")) as parent:
        wait_for_rows(parent, 2)
        parent.send_signal(number)
        stdout, stderr = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 130 and "Traceback" not in stderr
    stopped = trial(dsn, name)
    assert stopped.state == "interrupted" and len(stopped.rows) >= 2
    (snapshot,) = tmp_path.glob("*.solverstate")
    assert "continue from it, repeat the command with `--resume %s`" % snapshot in stdout


def has_loaded(pid, library):
    """Whether a process has loaded a library."""
    with contextlib.suppress(OSError), open("/proc/%d/maps" % pid) as file:
        return library in file.read()
    return False


def imports_its_modules(parent):
    return has_loaded(parent.pid, "_psycopg") or children(parent.pid)


def starts_the_fork_server(parent):
    return children(parent.pid)


def loads_caffe(parent):
    return any(has_loaded(child, "_caffe") for child in children(parent.pid))


@pytest.mark.parametrize("moment", [imports_its_modules, starts_the_fork_server, loads_caffe])
def test_ctrl_c_ends_the_program_while_caffe_starts(moment, tmp_path, digits, dsn):
    """Before the modules of the command line are imported, the signal itself ends the process.

    A shell reports exit status 130 in both cases.
    """
    path = nets.write(tmp_path, nets.solver(max_iter=10**6))
    with running(path, digits) as parent:
        wait_until(lambda: moment(parent))
        parent.send_signal(signal.SIGINT)
        _, stderr = parent.communicate(timeout=LIMIT)
    assert parent.returncode in (130, -signal.SIGINT) and stderr in (
        "lrbench: interrupted\n",
        "",
    ), stderr


def test_ctrl_c_twice_interrupts_the_trial_at_once(tmp_path, digits, dsn):
    """The first Ctrl-C waits for the iteration, which does not end here."""
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate", iteration=5, stubborn=True)
    net = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer).replace('"small"', '"twice"')
    with running(nets.write(tmp_path, net_text=net), digits) as parent:
        gate.wait()
        parent.send_signal(signal.SIGINT)
        wait_until(gate.was_interrupted)
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=LIMIT)
    assert parent.returncode == 130 and trial(dsn, "twice").state == "interrupted"


def test_a_training_ends_when_its_parent_process_is_killed(tmp_path, digits, dsn):
    """Also if it sends no event for minutes, as in the evaluation here."""
    path = nets.write(tmp_path, nets.solver(test_iter=10**6))
    with running(path, digits) as parent:
        wait_for("begin", parent)
        (child,) = trainings(parent.pid)
        parent.kill()
        parent.communicate()
    wait_until(lambda: not os.path.exists("/proc/%d" % child))


def test_the_option_log_keeps_the_log_of_caffe(tmp_path, digits, invoke):
    path = nets.write(tmp_path, nets.solver(max_iter=20, more="display: 10"))
    done = invoke("train", path, "--data", digits, "--log", tmp_path / "caffe.log")
    assert done.returncode == 0 and "Iteration 10" in (tmp_path / "caffe.log").read_text()


def test_an_incompletely_evaluated_test_set_is_reported_with_the_correct_test_iter(
    tmp_path, digits, invoke
):
    path = nets.write(tmp_path, nets.solver(test_iter=3, max_iter=20))
    done = invoke("train", path, "--data", digits)
    assert done.returncode == 0
    assert "300 samples are tested of the 400" in done.stderr and "test_iter 4" in done.stderr
    path = nets.write(tmp_path, nets.solver(test_iter=5, max_iter=20), nets.net(test_batch=70))
    done = invoke("train", path, "--data", digits)
    assert "350 samples are tested of the 400" in done.stderr
    assert "batch_size 50 and test_iter 8" in done.stderr


def running(path, data, *more):
    """Start `lrbench train --json`."""
    return start("train", path, "--data", data, "--json", *more)


def wait_for(event, process):
    line = " "
    while '"event": "%s"' % event not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()


def wait_for_rows(process, rows):
    for _ in range(rows):
        wait_for("row", process)


@pytest.mark.parametrize(
    "cuda_message, expected",
    [
        ("Cannot use GPU in CPU-only Caffe: check mode.", "built for the CPU only"),
        (
            "Check failed: error == cudaSuccess (10 vs. 0)  invalid device ordinal",
            "no GPU with this index",
        ),
        (
            "Check failed: error == cudaSuccess (35 vs. 0)  "
            "CUDA driver version is insufficient for CUDA runtime version",
            "no NVIDIA driver",
        ),
        (
            "Check failed: error == cudaSuccess (38 vs. 0)  no CUDA-capable device is detected",
            "finds no GPU",
        ),
        ("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", "out of memory"),
    ],
)
def test_a_cuda_error_is_explained(cuda_message, expected):
    """The messages are CUDA's, as Caffe's CUDA_CHECK prints them."""
    from lrbench_caffe.training.device import gpu_problem

    assert expected in gpu_problem(cuda_message)


@pytest.mark.parametrize(
    "error, advice",
    [
        ("(2 vs. 0)  out of memory", "the GPU has no memory left"),
        ("(35 vs. 0)  CUDA driver version is insufficient", "needs a driver even to train"),
        ("(209 vs. 0)  no kernel image is available", "not compiled for this card"),
    ],
)
def test_a_cuda_error_that_ends_a_training_says_what_to_do(error, advice):
    from lrbench_caffe.errors import fatal_message

    line = "F1127 02:00:00.000000 7 syncedmem.cpp:71] Check failed: error == cudaSuccess %s\n*** x"
    message = fatal_message(line % error)
    assert error.split()[-1] in message and advice in message


def test_a_snapshot_that_caffe_could_not_write_says_what_to_do():
    """A quota, for example, does not count as a full disk before Caffe writes."""
    from lrbench_caffe.errors import fatal_message

    problem = "Check failed: proto.SerializeToOstream(&output)"
    message = fatal_message("F1127 02:00:00.000000 7 io.cpp:69] %s \n*** x" % problem)
    assert message.startswith(problem)
    assert "free space on its disk" in message and "--snapshot-prefix" in message


def test_a_command_runs_in_a_thread_that_is_not_the_main_one(invoke):
    """Signals are the main thread's there."""
    done = []
    thread = threading.Thread(target=lambda: done.append(invoke("rank", "--study", "not-there")))
    thread.start()
    thread.join()
    assert [ended.returncode for ended in done] == [2] and "no study not-there" in done[0].stderr


@pytest.mark.parametrize("date", ["1127", "20261127"])
def test_a_fatal_message_of_any_glog_is_found(date):
    """From version 0.5 on, the date has the year."""
    from lrbench_caffe.errors import fatal_message, last_log_line

    log = "F%s 02:00:00.000000 7 net.cpp:71] Check failed: a == b\n*** x" % date
    assert fatal_message(log) == "Check failed: a == b"
    assert last_log_line("I%s 02:00:00.000000 7 net.cpp:71] done" % date) == "done"


def test_a_log_that_is_not_a_file_is_refused(invoke, tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    # Somebody reads the pipe, or else opening it would not end.
    reader = os.open(str(tmp_path / "pipe"), os.O_RDONLY | os.O_NONBLOCK)
    done = invoke("train", "solvers/digits_solver.prototxt", "--log", str(tmp_path / "pipe"))
    os.close(reader)
    assert done.returncode == 2 and "pipe (it is not a regular file)" in done.stderr
