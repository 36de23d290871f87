"""The processes of trainings: forks of a process that has imported Caffe, or fresh ones.

The Python layer WITNESS writes what it finds in the process of its training.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import nets
import pytest
import studies
from conftest import ROOT, needs_caffe
from gate import Gate
from processes import children, exists, parent, trainings
from test_pycaffe import write_fork
from waiting import LIMIT, wait_until

from lrbench_caffe.errors import TrialError
from lrbench_caffe.study import process
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Job, to_dict

pytestmark = needs_caffe

WITNESS = """
import json, os, random, resource, signal, sys, tempfile
import caffe
import numpy as np

class Witness(caffe.Layer):
    def setup(self, bottom, top):
        facts = {
            "pid": os.getpid(),
            "server": os.getppid(),
            "session": os.getsid(0),
            "folder": os.getcwd(),
            "module_folder": sys.path[0],
            "temporary": [os.environ["TMPDIR"], tempfile.gettempdir()],
            "random": [random.random(), np.random.random()],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "variable": os.environ.get("WITNESS"),
            "home": os.environ.get("LRBENCH_HOME"),
            "handlers": [
                int(signal.getsignal(number))
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
            ],
            "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "open": list(open_files()),
        }
        with open(self.param_str, "a") as file:
            file.write(json.dumps(facts) + "\\n")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = VALUE

    def backward(self, top, propagate_down, bottom):
        pass

def open_files():
    for name in os.listdir("/proc/self/fd"):
        path = "/proc/self/fd/" + name
        if os.path.exists(path) or os.path.islink(path):
            yield os.readlink(path)

VALUE = 1
"""
LAYER = (
    'layer { name: "witness" type: "Python" top: "witness" include { phase: TRAIN } '
    "python_param { module: 'witness' layer: 'Witness' param_str: '%s' } }\n"
)
DROPOUT = nets.BODY.replace(
    'layer { name: "ip"',
    'layer { name: "drop" type: "Dropout" bottom: "conv1" top: "conv1" }\nlayer { name: "ip"',
)


@pytest.fixture
def witness(tmp_path, digits, monkeypatch):
    """Train a net with the layer WITNESS: witness() returns what it wrote.

    The layer is imported from the folder of the test.
    """
    facts = tmp_path / "facts"
    (tmp_path / "witness.py").write_text(WITNESS)
    path = nets.write(
        tmp_path, nets.solver(max_iter=1), nets.net(head=nets.ACCURACY + nets.LOSS + LAYER % facts)
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([ROOT, str(tmp_path)]))

    def train():
        assert trained(Job(path, data=digits)).state == "finished"
        return json.loads(facts.read_text().splitlines()[-1])

    return train


def trained(job, threads=1, notes=None):
    """Train a job without recording it; return the Trial."""

    def collect(kind, content):
        if kind == "note" and notes is not None:
            notes.append(content)

    return process.run(job, Stop(), collect, threads)


def test_each_training_is_a_new_process_of_one_server(witness):
    first, second = witness(), witness()
    assert first["server"] == second["server"] != os.getpid()
    assert parent(first["server"]) == os.getpid()
    assert first["pid"] != second["pid"] and not exists(first["pid"]) and not exists(second["pid"])


def test_a_training_is_like_the_first_one_of_its_process(witness):
    """Nothing of the server or of another training is left in it."""
    first, second = witness(), witness()
    for facts in (first, second):
        assert facts["session"] == facts["pid"] and facts["folder"] == os.getcwd()
        assert facts["temporary"][0] == facts["temporary"][1]
        assert facts["handlers"] == [signal.SIG_DFL] * 3 and facts["blocked"] == []
        assert not [name for name in facts["open"] if name.startswith("socket:")]
    assert first["temporary"] != second["temporary"]
    assert not os.path.exists(first["temporary"][0])
    assert not set(first["random"]) & set(second["random"])


def test_a_layer_that_was_edited_is_imported_again(witness, tmp_path):
    """The second version fails, and so does the training."""
    server = witness()["server"]
    (tmp_path / "witness.py").write_text(WITNESS.replace("VALUE = 1", "VALUE = 'not a number'"))
    with pytest.raises(TrialError, match="not a number"):
        witness()
    (tmp_path / "witness.py").write_text(WITNESS)
    assert witness()["server"] == server, "what fails in a training leaves the server alone"


def test_a_training_inherits_what_its_program_has_changed(witness, tmp_path, monkeypatch):
    """What an import may depend on needs another server, the rest does not."""
    server = witness()["server"]
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "other"))
    facts = witness()
    assert (facts["home"], facts["server"]) == (str(tmp_path / "other"), server)
    monkeypatch.setenv("WITNESS", "set")
    facts = witness()
    assert facts["variable"] == "set" and facts["server"] != server
    wait_until(lambda: not exists(server))


def test_a_training_has_the_current_directory_of_its_program(witness, tmp_path, monkeypatch):
    """It needs another server only where Python finds modules, here the layer."""
    servers = {}
    for folder in (tmp_path / "first", tmp_path / "second", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "solver.prototxt").touch()
        monkeypatch.chdir(folder)
        facts = witness()
        assert facts["folder"] == facts["module_folder"] == str(folder)
        servers[folder.name] = facts["server"]
    assert servers["first"] == servers["second"] != servers[tmp_path.name]
    wait_until(lambda: not exists(servers["first"]))


def test_a_killed_server_is_replaced(witness):
    server = witness()["server"]
    os.kill(server, signal.SIGKILL)
    assert witness()["server"] != server


def test_a_training_whose_server_is_killed_fails_and_the_next_one_trains(tmp_path, digits):
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate", iteration=2)
    path = nets.write(
        tmp_path, nets.solver(max_iter=5), nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    )
    ends, held = [], []

    def kill(kind, content):
        if kind == "row":
            (training,) = gate.wait()
            held.append(training)
            os.kill(parent(training), signal.SIGKILL)
        if kind == "end":
            ends.append(content.state)

    with pytest.raises(TrialError, match="the process from which trainings start was ended"):
        process.run(Job(path, data=digits), Stop(), kill, 1)
    assert ends == ["failed"]
    wait_until(lambda: not exists(held[0]))
    gate.open()
    assert trained(Job(path, data=digits)).state == "finished"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_computes_the_same_as_a_fresh_process(threads, tmp_path, digits, monkeypatch):
    """All digits of the rows, and all weights. The fork is the second one of its server."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(threads))
    path = nets.write(tmp_path, nets.solver(max_iter=20), nets.net(body=DROPOUT))
    jobs = [
        Job(path, data=digits, seed=3, id=str(n), model_folder=str(tmp_path / str(n)))
        for n in range(3)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "lrbench_caffe.training.worker"],
        input=json.dumps(to_dict(jobs[0])),
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT),
        text=True,
        timeout=LIMIT,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [content for kind, content in events if kind == "row"]
    trained(jobs[1], threads)
    trial = trained(jobs[2], threads)
    assert measured(rows) == measured(map(dataclasses.asdict, trial.rows)) and rows
    assert weights(jobs[0]) == weights(jobs[2])
    (begin,) = [content for kind, content in events if kind == "begin"]
    assert (begin["blas"], begin["threads"]) == (trial.blas, trial.threads)


def measured(rows):
    """The rows as JSON, without what depends on the time of the day."""
    return json.loads(
        json.dumps([{k: v for k, v in row.items() if "time" not in k} for row in rows])
    )


def weights(job):
    """The digest of the model that a training has kept."""
    (name,) = [name for name in os.listdir(job.model_folder) if name.endswith(".caffemodel")]
    with open(os.path.join(job.model_folder, name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_a_caffe_that_starts_threads_is_imported_for_each_training(tmp_path, digits, monkeypatch):
    """A fork would lose the threads. The note comes once."""
    change = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([write_fork(tmp_path, change), ROOT]))
    notes, path = [], nets.write(tmp_path, nets.solver(max_iter=1))
    for _ in range(2):
        assert trained(Job(path, data=digits), notes=notes).state == "finished"
    assert len([note for note in notes if "starts threads when it is imported" in note]) == 1


def test_a_program_that_is_killed_leaves_nothing(tmp_path, digits, dsn, monkeypatch):
    (tmp_path / "gate").mkdir()
    (tmp_path / "temporary").mkdir()
    gate = Gate(tmp_path / "gate", iteration=2)
    path = nets.write(tmp_path, net_text=nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    program = studies.start("train", path, "--data", digits)
    (training,) = gate.wait()
    (server,) = children(program.pid)
    assert trainings(program.pid) == [training]
    program.kill()
    program.communicate()
    wait_until(lambda: not exists(server) and not exists(training))
    assert os.listdir(str(tmp_path / "temporary")) == []


@pytest.mark.long
def test_a_hundred_kills_at_random_moments_leave_nothing_and_lose_nothing(
    name, command, trials, tmp_path, monkeypatch
):
    """Trainings, fork servers and programs are killed while they start, train and end."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    more = ("--jobs", "2", "--max-iter", "2000", "--retry-failed")
    clock, kills, study, seen = random.Random(24), collections.Counter(), None, set()
    find = {
        "program": lambda pid: [pid],
        "server": children,
        "training": trainings,
    }
    while sum(kills.values()) < 100:
        if study is None or study.poll() is not None:
            study = studies.start(*command(name, *more))
        kind = clock.choice(sorted(find))
        wait_until(lambda: find[kind](study.pid) or study.poll() is not None)
        time.sleep(clock.uniform(0, 1))
        seen.update([*children(study.pid), *trainings(study.pid)])
        for pid in find[kind](study.pid)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills[kind] += 1
        if kind == "program":
            study.communicate()
    study.communicate()
    while studies.states(trials(name)) != ["finished"] * 4:
        studies.start(*command(name, *more)).communicate()
    assert studies.keys(trials(name)) == studies.expected(max_iter=2000), "each row is there once"
    wait_until(lambda: not any(map(exists, seen)))
    files = [name for _, _, names in os.walk(str(tmp_path / "temporary")) for name in names]
    assert files == [], "only a program that is killed before it asks for a fork leaves a folder"
    print("killed: %s" % dict(kills))
