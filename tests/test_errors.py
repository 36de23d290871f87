"""What bad input gets: one sentence that names the thing and says what would do, exit status 2, and no traceback.
A Caffe that aborts all the same ends the trial with Caffe's message and exit status 1."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

import nets
import pytest
from conftest import ROOT
from studies import wait_until

pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")

NO_LABELS = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'


def data_without_labels(text):
    return text.replace(
        'top: "data" top: "label" include { phase: TEST }', 'top: "data" include { phase: TEST }'
    )


# What is wrong: the solver's text, the net's text, extra arguments, and words that the sentence must have.
FORESEEN = {
    "a solver that is not there": (
        None,
        None,
        ["no/such.prototxt"],
        ["no/such.prototxt", "No such file"],
    ),
    "a solver that is no prototxt": (
        "net: oops {",
        None,
        [],
        ["solver.prototxt", "not a valid solver prototxt"],
    ),
    "a field that Caffe has not": (
        nets.solver(more="learning_rate: 1"),
        None,
        [],
        ["learning_rate"],
    ),
    "a net that is not there": (
        nets.solver(net="other.prototxt"),
        None,
        [],
        ["other.prototxt", "--data"],
    ),
    "no net": (nets.solver().replace('net: "net.prototxt"', ""), None, [], ["no net"]),
    "an unknown layer type": (
        None,
        nets.net(body=nets.BODY.replace('"ReLU"', '"RELU"')),
        [],
        ["relu1", "'RELU'", "did you mean ReLU?"],
    ),
    "a missing LMDB": (
        None,
        nets.net(train="cifar_train_lmdb"),
        [],
        ["cifar_train_lmdb", "'train'", "--data"],
    ),
    "an LMDB read as LevelDB": (
        None,
        nets.net().replace("backend: LMDB", ""),
        [],
        ["LMDB", "backend"],
    ),
    "more labels than classes": (
        None,
        nets.net(classes=5),
        [],
        ["0 to 9", "5 classes", "num_output"],
    ),
    "no labels": (
        None,
        data_without_labels(
            nets.net(
                head=nets.LOSS.replace('top: "loss"', 'top: "loss" include { phase: TRAIN }')
                + NO_LABELS
            )
        ),
        [],
        ["no labels", "small"],
    ),
    "no softmax": (
        None,
        nets.net(
            head='layer { name: "loss" type: "HingeLoss" bottom: "ip" bottom: "label" top: "loss" }'
        ),
        [],
        ["Softmax", "small"],
    ),
    "no test net": (nets.solver().replace("test_iter: 4", ""), None, [], ["test_iter"]),
    "an unknown lr_policy": (
        nets.solver('lr_policy: "stepp"'),
        None,
        [],
        ["'stepp'", "did you mean step?"],
    ),
    "a step without its size": (
        nets.solver('lr_policy: "step" gamma: 0.1'),
        None,
        [],
        ["stepsize"],
    ),
    "one of our policies, misspelt, in the prototxt": (
        nets.solver('lr_policy: "SIM2(k0=1, k1=2, l=3)"'),
        None,
        [],
        ["SIN2"],
    ),
    "a misspelt policy": (None, None, ["--policy", "TRY(k0=1, k1=2, l=3)"], ["TRI"]),
    "a POLY that ends too early": (None, None, ["--policy", "POLY(k0=0.1, p=1, l=30)"], ["l=60"]),
    "a GPU for a Caffe without": (
        None,
        None,
        ["--gpu", "0"],
        ["GPU 0", "this Caffe is built for the CPU only", "--gpu"],
    ),
    "snapshots into no folder": (
        None,
        None,
        ["--snapshot-prefix", "no/where/x"],
        ["no/where", "--snapshot-prefix"],
    ),
    "a snapshot that is not there": (
        None,
        None,
        ["--resume", "x_iter_1.solverstate"],
        ["x_iter_1.solverstate"],
    ),
    "a snapshot of another kind": (
        None,
        None,
        ["--resume", "solver.prototxt"],
        ["solver.prototxt", "no solver state"],
    ),
    "a snapshot and weights": (
        None,
        None,
        ["--resume", "net.prototxt", "--weights", "net.prototxt"],
        ["not both"],
    ),
    "weights that are not there": (None, None, ["--weights", "x.caffemodel"], ["x.caffemodel"]),
    "a data folder that is not there": (None, None, ["--data", "nowhere"], ["nowhere", "--data"]),
    "an unknown optimizer": (
        nets.solver(more='type: "adam"'),
        None,
        [],
        ["'adam'", "did you mean Adam?"],
    ),
    "a setting given twice": (nets.solver(more="base_lr: 0.5"), None, [], ["base_lr"]),
    "no lr_policy": (nets.solver(""), None, [], ["no lr_policy", "--policy"]),
    "a Python layer that is not there": (
        None,
        nets.net(
            head=nets.LOSS + 'layer { name: "p" type: "Python" bottom: "ip" python_param { '
            'module: "no_such_module" layer: "L" } }'
        ),
        [],
        ["no_such_module", "PYTHONPATH"],
    ),
    "an optimizer's number out of range": (nets.solver(max_iter=3 * 10**9), None, [], ["max_iter"]),
    "scores in place of probabilities": (
        None,
        nets.net(
            head=nets.LOSS + 'layer { name: "m" type: "Python" bottom: "ip" bottom: "label" '
            'include { phase: TEST } python_param { module: "lrbench_caffe.layers" layer: "MetricsLayer" } }'
        ),
        [],
        ["softmax", "Softmax layer"],
    ),
}


@pytest.mark.parametrize("what", sorted(FORESEEN))
def test_foreseen(what, tmp_path, digits, lrbench):
    solver, net, arguments, words = FORESEEN[what]
    path = nets.write(tmp_path, solver, net)
    target = arguments if arguments[:1] == ["no/such.prototxt"] else [path] + arguments
    done = lrbench("train", "--data", digits, *target, cwd=str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr and len(last) < 600


def test_an_lmdb_that_another_container_reads_under_the_same_process_id(tmp_path, digits, lrbench):
    """Here all process ids are taken, as LMDB takes one: a lock of the byte at its number."""
    shutil.copytree(digits, str(tmp_path / "data"))
    path = nets.write(tmp_path)
    with open(str(tmp_path / "data" / "digits_train_lmdb" / "lock.mdb"), "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX, 0, 1)
        done = lrbench("train", path, "--data", str(tmp_path / "data"))
    last = done.stderr.strip().splitlines()[-1]
    assert (
        done.returncode == 2
        and "another container" in last
        and "read-only" in last
        and "Traceback" not in done.stderr
    ), last
    assert (
        lrbench("train", path, "--data", str(tmp_path / "data"), "--max-iter", "1").returncode == 0
    )


def trial(dsn, network):
    """The one trial of a network that the database has."""
    from lrbench_caffe.database import Store

    with Store(dsn) as store:
        (found,) = store.trials(network=network)
    return found


def test_an_abort_of_caffe_is_told_in_its_words_and_marks_the_trial_as_failed(
    tmp_path, digits, lrbench, dsn, monkeypatch
):
    """A kernel larger than its image: Caffe finds out when it builds the net, and aborts."""
    body = nets.BODY.replace("kernel_size: 3", "kernel_size: 30")
    path = nets.write(tmp_path, net_text=nets.net(body=body).replace('"small"', '"aborts"'))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    done = lrbench("train", path, "--data", digits)
    assert done.returncode == 1 and "Check failed" in done.stderr and "Traceback" not in done.stderr
    assert not os.listdir(str(tmp_path / "temporary"))
    failed = trial(dsn, "aborts")
    assert failed.state == "failed" and "Check failed" in failed.error and failed.ended


def test_a_killed_training_says_so_and_keeps_its_rows(tmp_path, digits, lrbench, dsn):
    path = nets.write(
        tmp_path, nets.solver(max_iter=10**6), nets.net().replace('"small"', '"killed"')
    )
    with running(path, digits) as parent:
        wait_for_rows(parent, 2)
        (child,) = children(parent.pid)
        os.kill(child, signal.SIGKILL)
        _, stderr = parent.communicate(timeout=30)
    assert parent.returncode == 1 and "SIGKILL" in stderr and "Traceback" not in stderr
    failed = trial(dsn, "killed")
    assert failed.state == "failed" and len(failed.rows) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_the_trial_as_interrupted_with_its_rows_and_a_snapshot(
    number, tmp_path, digits, lrbench, dsn
):
    name = "interrupted-%d" % number
    path = nets.write(
        tmp_path, nets.solver(max_iter=10**6), nets.net().replace('"small"', '"%s"' % name)
    )
    with running(path, digits, "--snapshot-prefix", str(tmp_path / "stopped")) as parent:
        wait_for_rows(parent, 2)
        parent.send_signal(number)
        _, stderr = parent.communicate(timeout=30)
    assert parent.returncode == 130 and "Traceback" not in stderr
    stopped = trial(dsn, name)
    assert stopped.state == "interrupted" and len(stopped.rows) >= 2
    assert any(file.endswith(".solverstate") for file in os.listdir(str(tmp_path)))


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.8])
def test_ctrl_c_while_caffe_starts_ends_it_too(seconds, tmp_path, digits, dsn):
    """Where not even the command line's modules are there yet, the signal itself ends the process; a shell says 130 of both."""
    path = nets.write(tmp_path, nets.solver(max_iter=10**6))
    with running(path, digits) as parent:
        wait_until(lambda: catches_ctrl_c(parent.pid))
        time.sleep(seconds)
        parent.send_signal(signal.SIGINT)
        _, stderr = parent.communicate(timeout=30)
    assert parent.returncode in (130, -signal.SIGINT) and stderr in (
        "lrbench: interrupted\n",
        "",
    ), stderr


def test_ctrl_c_twice_ends_it_at_once_and_is_still_an_interruption(tmp_path, digits, dsn):
    """In an evaluation that would take minutes."""
    path = nets.write(
        tmp_path, nets.solver(test_iter=10**6), nets.net().replace('"small"', '"twice"')
    )
    with running(path, digits) as parent:
        wait_for("begin", parent)
        parent.send_signal(signal.SIGINT)
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=30)
    assert parent.returncode == 130 and trial(dsn, "twice").state == "interrupted"


def test_a_training_does_not_outlive_the_program_that_listens_to_it(tmp_path, digits, dsn):
    """Also where it has nothing to tell for minutes, as in the evaluation here."""
    path = nets.write(tmp_path, nets.solver(test_iter=10**6))
    with running(path, digits) as parent:
        wait_for("begin", parent)
        (child,) = children(parent.pid)
        parent.kill()
        parent.communicate()
    for _ in range(100):
        if not os.path.exists("/proc/%d" % child):
            return
        time.sleep(0.1)
    pytest.fail("the training still runs")


def test_caffes_own_log_is_kept_where_one_asks_for_it(tmp_path, digits, lrbench):
    path = nets.write(tmp_path, nets.solver(max_iter=20, more="display: 10"))
    done = lrbench("train", path, "--data", digits, "--log", tmp_path / "caffe.log")
    assert done.returncode == 0 and "Iteration 10" in (tmp_path / "caffe.log").read_text()


def test_a_test_set_that_is_not_covered_is_reported_with_the_right_test_iter(
    tmp_path, digits, lrbench
):
    path = nets.write(tmp_path, nets.solver(test_iter=3, max_iter=20))
    done = lrbench("train", path, "--data", digits)
    assert (
        done.returncode == 0
        and "300 samples are tested of the 400" in done.stderr
        and "test_iter 4" in done.stderr
    )
    path = nets.write(tmp_path, nets.solver(test_iter=5, max_iter=20), nets.net(test_batch=70))
    done = lrbench("train", path, "--data", digits)
    assert (
        "350 samples are tested of the 400" in done.stderr
        and "batch_size 50 and test_iter 8" in done.stderr
    )


def running(path, data, *more):
    """`lrbench train --json` as a process to be disturbed."""
    return subprocess.Popen(
        [sys.executable, "-m", "lrbench_caffe", "train", path, "--data", data, "--json"]
        + list(more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )


def wait_for(event, process):
    line = " "
    while '"event": "%s"' % event not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()


def wait_for_rows(process, rows):
    for _ in range(rows):
        wait_for("row", process)


def catches_ctrl_c(pid):
    """Whether a process has a handler for SIGINT, as Python has from its first moments on."""
    with open("/proc/%d/status" % pid) as file:
        (caught,) = (int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return caught >> (signal.SIGINT - 1) & 1


def children(pid):
    """The processes that a process has started."""
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize(
    "said, meaning",
    [
        ("Cannot use GPU in CPU-only Caffe: check mode.", "built for the CPU only"),
        (
            "Check failed: error == cudaSuccess (10 vs. 0)  invalid device ordinal",
            "no GPU with this index",
        ),
        (
            "Check failed: error == cudaSuccess (35 vs. 0)  CUDA driver version is insufficient for CUDA runtime version",
            "no NVIDIA driver",
        ),
        (
            "Check failed: error == cudaSuccess (38 vs. 0)  no CUDA-capable device is detected",
            "finds no GPU",
        ),
        ("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", "out of memory"),
    ],
)
def test_why_a_gpu_cannot_be_used(said, meaning):
    """CUDA's own messages, as Caffe's CUDA_CHECK prints them."""
    from lrbench_caffe.training.solver import gpu_problem

    assert meaning in gpu_problem(said)
