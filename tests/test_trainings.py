"""The trainings of a study on a cluster, whose workers do not do what they should.

Dask is the real one, with two workers in this process. They do not train: each execution of a job
plays the next of the acts that a test has prepared.
"""

import logging
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from trials import trial as made_up
from waiting import LIMIT, wait_until

pytest.importorskip("distributed", reason="needs Dask: run the tests with `make test`")
from distributed import Client, LocalCluster, Queue, Variable, get_client, get_worker

from lrbench_caffe.study import link
from lrbench_caffe.study import trainings as module
from lrbench_caffe.study import worker as workers
from lrbench_caffe.study.cluster_workers import ClusterWorkers
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.study.trainings import Trainings
from lrbench_caffe.trial import Job

acts = []  # functions of an _Act, one for each execution
released = threading.Event()  # what an act waits for that would never end

INTERRUPTIBLE = """
import time
from lrbench_caffe.study.stop import interruptible
with interruptible() as stop:
    for requests in range(3):
        while stop.requests < requests:
            time.sleep(0.01)
        print(requests, flush=True)
    while True:
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of two workers with one thread each."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
        silence_logs=logging.CRITICAL,
    ) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def run(client, monkeypatch):
    """Train one job whose executions play acts: run(*acts, patience=..., on_event=...).

    It returns the events (kind, content) without notes, and the notes.
    """
    monkeypatch.setattr(workers, "train_job", _play)
    released.clear()

    def run(*prepared, **options):
        acts[:] = prepared
        return run_trainings(client, **options)

    yield run
    released.set()
    wait_until(lambda: not any(client.processing().values()))


def run_trainings(client, patience=600, on_event=lambda trainings, kind: None, gpus=(), ids=("1",)):
    events, notes, stop = [], [], Stop()

    def record(job, kind, content):
        (notes if kind == "note" else events).append((kind, content))
        on_event(trainings, kind)

    trainings = Trainings(client, gpus, [Job("x", id=id) for id in ids], stop, record, patience)
    trainings.stop = stop
    acts[:] = [(act, trainings) for act in acts]
    trainings.run()
    return events, [content for _, content in notes]


def _play(job, channel, version):
    act, trainings = acts.pop(0)
    act(_Act(job, channel, trainings))


def _work_for_others():
    released.wait(LIMIT)


class _Act:
    """An execution of a job: what it sends."""

    def __init__(self, job, channel, trainings):
        self.channel, self.trainings = channel, trainings
        self.queue = Queue(channel, client=get_client())
        self._job = job
        self.sender = workers._Sender(self.queue, job.id)

    def again(self):
        """Another execution of the same job."""
        return _Act(self._job, self.channel, self.trainings)

    def start(self, address=None):
        self.sender.send("start", address or get_worker().address)
        return self

    def begin(self):
        self.sender.on_event("begin", made_up(top1=(), state="running"))
        return self

    def row(self):
        self.sender.on_event("row", made_up().rows[0])
        return self

    def end(self):
        self.sender.on_event("end", made_up())
        self.sender.send("done", None)


def train(act):
    act.start().begin().row().end()


def give_up(act):
    act.start().begin().row()
    act.sender.send("done", None)


def fail_to_begin(act):
    act.start().sender.send("problem", "no data here")
    act.sender.send("done", None)


def never_begin(act):
    """Start, and never begin; from then on, the program has no patience."""
    act.start()
    act.trainings._patience = 0
    released.wait(LIMIT)


def never_end(act):
    act.start().begin().row()
    released.wait(LIMIT)


def never_end_on_a_worker_that_is_gone(act):
    """All its events come between two looks at the cluster: a look ends what it does not find."""
    wait_until(lambda: act.trainings._next_look > 0)
    act.start("tcp://127.0.0.1:1").begin().row()
    released.wait(LIMIT)


def kinds(events):
    return [kind for kind, _ in events]


def test_a_training_that_cannot_begin_on_its_second_worker_has_failed(run):
    events, notes = run(give_up, fail_to_begin, fail_to_begin)
    assert kinds(events) == ["begin", "row", "end"]
    trial = events[-1][1]
    assert trial.state == "failed" and trial.error.endswith(": no data here")
    assert trial.error.startswith("on the worker tcp://") and len(trial.rows) == 1
    (note,) = notes
    assert "no data here; another worker tries" in note


def test_an_execution_that_starts_and_never_begins_is_given_up(run):
    """Its successors do not begin either."""
    events, _ = run(give_up, never_begin, never_begin)
    assert kinds(events) == ["begin", "row", "end"]
    trial = events[-1][1]
    assert trial.state == "failed" and len(trial.rows) == 1
    assert "did not begin within 0 s" in trial.error or "no sign of life for 0 s" in trial.error


def test_a_training_that_its_worker_has_given_up_is_begun_again(run):
    events, _ = run(give_up, train)
    assert kinds(events) == ["begin", "row"] * 2 + ["end"]
    assert events[-1][1].state == "finished" and len(events[-1][1].rows) == 1


def test_a_training_that_never_ends_is_not_begun_for_ever(run):
    events, _ = run(*[give_up] * 20)
    assert kinds(events) == ["begin", "row"] * module._MAX_SUBMISSIONS + ["end"]
    assert events[-1][1].state == "failed" and "never ended" in events[-1][1].error


def begin_twice(act):
    """Begin, and begin again as another execution, while the first one does not end."""
    successor = act.start().begin().again()
    successor.start().begin()
    act.row()
    orders = Variable(act.channel, client=get_client())
    wait_until(lambda: act.sender.execution in orders.get()["superseded"])
    assert successor.sender.execution not in orders.get()["superseded"]
    successor.end()


def test_events_of_an_execution_with_a_successor_are_ignored_and_it_is_told_to_end(run):
    events, _ = run(begin_twice)
    assert kinds(events) == ["begin", "begin", "end"] and events[-1][1].rows == ()


def test_what_cannot_begin_on_one_worker_is_tried_on_another(run):
    addresses = []

    def fail(act):
        addresses.append(get_worker().address)
        fail_to_begin(act)

    def succeed(act):
        addresses.append(get_worker().address)
        train(act)

    events, notes = run(fail, succeed)
    assert kinds(events) == ["begin", "row", "end"] and len(notes) == 1
    assert len(set(addresses)) == 2 and addresses[0] in notes[0]


def refuse(act):
    """What a worker without Caffe does."""
    act.start().sender.send("unsuitable", "no Caffe here")
    act.sender.send("done", None)


def test_a_worker_that_cannot_train_anything_gets_no_further_trainings(run):
    """Of four trainings on two workers, those that the first refuses are trained by the second."""
    addresses, lock = [], threading.Lock()

    def act_of(act):
        with lock:
            addresses.append(get_worker().address)
        (refuse if get_worker().address == addresses[0] else train)(act)

    events, notes = run(*[act_of] * 8, ids="1234")
    assert kinds(events).count("end") == 4 and "problem" not in kinds(events)
    note = "on the worker %s: no Caffe here; another worker tries" % addresses[0]
    assert notes == [note] * addresses.count(addresses[0]), "the display prints it once"
    assert 4 < len(addresses) <= 8, "what the first has refused does not come back to it"


def test_workers_that_cannot_train_anything_are_named(run):
    events, notes = run(refuse, refuse)
    (problem,) = [content for kind, content in events if kind == "problem"]
    assert re.match("on the worker tcp://.*: no Caffe here$", problem)
    assert len(notes) == 1 and notes[0].split(";")[0] != problem


def test_a_training_waits_for_any_worker_if_the_suitable_ones_are_gone(run, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(ClusterWorkers, "suitable", lambda self, workers: ["tcp://127.0.0.1:1"])
    events, notes = run(refuse, train)
    assert kinds(events) == ["begin", "row", "end"]
    assert len(notes) == 1 and "no Caffe here" in notes[0]


def fail(act):
    raise RuntimeError("two\nlines")


def test_a_task_that_dask_cannot_execute_has_failed_with_its_error(run):
    events, _ = run(fail)
    problem = "a Dask worker could not train it (RuntimeError: two lines)"
    assert events == [("problem", problem)]


def test_a_stop_does_not_wait_for_a_worker_that_is_gone(run, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_SECONDS", 1e9)

    def stop(trainings, kind):
        if kind == "row":
            trainings.stop()
            trainings._next_look = 0

    events, _ = run(never_end_on_a_worker_that_is_gone, on_event=stop)
    assert kinds(events) == ["begin", "row"]


def test_the_second_request_to_stop_ends_everything(run, monkeypatch):
    monkeypatch.setattr(module, "_KILL_SECONDS", 0)

    def stop_twice(trainings, kind):
        if kind == "row":
            trainings.stop()
            trainings.stop()

    events, _ = run(never_end, on_event=stop_twice)
    assert kinds(events) == ["begin", "row"]


def test_a_cluster_without_a_suitable_worker_ends_the_trainings(run):
    notes = []

    def record(trainings, kind):
        notes.append(kind)

    with pytest.raises(link.LinkLost, match="nothing has trained on it for 0 s, and none"):
        run(train, gpus=[0], patience=0, on_event=record)
    assert notes == ["note"]


def test_a_cluster_that_works_for_others_is_waited_for(run, client):
    """Only the time in which it could have trained counts for the patience."""
    others = [client.submit(_work_for_others, pure=False) for _ in range(2)]
    wait_until(lambda: sum(map(len, client.processing().values())) == 2)

    def release(trainings, kind):
        if kind == "note":
            trainings._patience = 600
            released.set()

    events, notes = run(train, patience=0, on_event=release)
    assert kinds(events) == ["begin", "row", "end"]
    assert notes == ["the cluster works for other programs: trainings wait for a free worker"]
    client.gather(others)


def test_a_worker_of_another_version_is_named(client, monkeypatch):
    monkeypatch.setattr(module, "__version__", "0.0")
    events, _ = run_trainings(client)
    ((kind, problem),) = events
    assert kind == "problem" and "run by 0.0: install the same version" in problem
    assert problem.startswith("on the worker tcp://")


def test_a_training_whose_program_is_silent_is_given_up(client, monkeypatch):
    monkeypatch.setattr(workers, "_SILENCE_SECONDS", 0)
    channel = "test-" + made_up().id
    variable, stop = Variable(channel, client=client), Stop()
    orders = {"beat": 1, "stop": 0, "verdicts": {}, "superseded": []}
    variable.set(orders)
    sender = workers._Sender(Queue(channel, client=client), "1")
    polled = workers._Orders(variable, stop, sender)
    wait_until(lambda: polled._poll() or polled.gave_up)
    assert stop.requests == 1, "it takes a snapshot"
    variable.set(dict(orders, beat=2, superseded=[sender.execution]))
    polled._poll()
    assert stop.requests == 2, "it does not, because its successor waits"


def test_a_call_that_is_not_answered_ends_when_the_user_insists():
    stop, never = Stop(), threading.Event()
    stop()
    stop()
    with pytest.raises(link.LinkLost, match="no answer"):
        link.call(never.wait, stop=stop)
    never.set()


def test_a_call_that_fails_has_the_reason_in_one_line():
    with pytest.raises(link.LinkLost, match="^invalid literal .*'a b'$"):
        link.call(int, "a\nb".replace("\n", " "))


def test_the_time_in_which_a_process_was_stopped_does_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = link.RunningClock()
    now[0] += 1
    assert clock.seconds() == 1
    now[0] += 1000
    assert clock.seconds() == 1 + link._LONGEST_STEP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_third_signal_kills(number):
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        universal_newlines=True,
    ) as process:
        for line in ["0\n", "1\n", "2\n"]:
            assert process.stdout.readline() == line
            process.send_signal(number)
    assert process.returncode == -number


def _end_early(job, channel, version):
    """What a worker sends of a training that ends before the program has judged its last row."""
    client = get_client()
    sender = workers._Sender(Queue(channel, client=client), job.id)
    sender.send("start", get_worker().address)
    sender.on_event("begin", made_up(top1=(), state="running"))
    sender.on_event("row", made_up().rows[0])
    sender.on_event("end", made_up(error="top1 has not improved"))
    sender.send("done", None)


def test_a_verdict_on_the_last_row_counts_before_an_early_end(monkeypatch):
    monkeypatch.setattr(workers, "train_job", _end_early)
    ends = []

    def judge(job, kind, content):
        if kind == "end":
            ends.append((content.state, content.error))
        return ("diverged", "it is stuck") if kind == "row" else None

    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with Client(dashboard_address=None, **options) as client:
        Trainings(client, (), [Job("x", id="1")], Stop(), judge, 60).run()
    assert ends == [("diverged", "it is stuck")]
