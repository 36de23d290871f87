"""Outages of the database, with real servers: nothing that was measured is lost, nothing hangs."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

import nets
import pytest
from conftest import ROOT, administration, end_sessions, needs_caffe, private_home
from gate import Gate
from proxy import Proxy, wait_withheld
from studies import start
from trials import trial
from waiting import LIMIT, wait_until

from lrbench_caffe.errors import ChangeRefused, InputError
from lrbench_caffe.paths import home

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
import psycopg2
from test_journal import execute, leave_journal, new_row, new_trial, record, stored, stored_or_none

from lrbench_caffe import database, interrupts, waits
from lrbench_caffe.database import watch
from lrbench_caffe.database.opening import open_connection
from lrbench_caffe.evaluator import range_test, tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.study.cores import Cores
from lrbench_caffe.study.stop import Stop
from lrbench_caffe.trial import Job

ROWS = 40
SHORT, ENDLESS = "0.5", "3600"  # seconds for LRBENCH_DB_TIMEOUT
PATIENT = "4"  # seconds in which a server answers that works, even on a busy machine


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch):
    monkeypatch.setattr("lrbench_caffe.database.journal.RETRY_SECONDS", 0.05)


@pytest.fixture
def short(monkeypatch):
    """A database that does not answer is given up soon."""
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", SHORT)


@pytest.fixture
def journal_folder(monkeypatch, tmp_path, dsn):
    """An LRBENCH_HOME of the test's own, beside the server of the session."""
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "journal"


@pytest.fixture
def proxy(database, journal_folder):
    """A Proxy before the server; its attribute dsn leads to the database of the test."""
    options = psycopg2.extensions.parse_dsn(database)
    with Proxy(os.path.join(options["host"], ".s.PGSQL." + options["port"])) as proxy:
        proxy.dsn = "host=127.0.0.1 port=%d user=%s dbname=%s" % (
            proxy.port,
            options["user"],
            options["dbname"],
        )
        proxy.direct = database
        yield proxy


def database_name(dsn):
    return psycopg2.extensions.parse_dsn(dsn)["dbname"]


@contextlib.contextmanager
def begun(address, direct=None, rows=1, notes=None):
    """A Recorder in whose database a trial has begun: yields the trial, its journal and notes."""
    trial, notes = new_trial(), [] if notes is None else notes
    with database.Recorder(address, notes.append) as recorder:
        journal = record(recorder, trial, range(rows), end=None)
        wait_until(lambda: n_stored(direct or address, trial) == rows)
        yield trial, journal, notes


def add_rows(journal, first, last=ROWS):
    for iteration in range(first, last):
        assert journal.on_event("row", new_row(iteration)) is None


def end(journal, trial):
    journal.on_event("end", trial.ended_as("finished", 1e9 + 5))


def n_stored(dsn, trial):
    found = stored_or_none(dsn, trial)
    return len(found.rows) if found else 0


def check_complete(dsn, trial, rows=ROWS):
    """Each row is there exactly once, as it was measured, and nothing waits."""
    recorded = stored(dsn, trial)
    assert recorded.rows == tuple(map(new_row, range(rows))) and recorded.state == "finished"
    assert os.listdir(os.path.join(home(), "journal")) == []


def test_a_network_that_is_cut_costs_no_rows(proxy):
    """Packets are dropped, and TCP's timeout ends the connection."""
    with begun(proxy.dsn + " tcp_user_timeout=500", proxy.direct) as (trial, journal, notes):
        proxy.cut()
        add_rows(journal, 1)
        wait_until(lambda: notes)
        assert "their measurements wait in" in notes[0]
        proxy.heal()
        end(journal, trial)
    check_complete(proxy.direct, trial)


@pytest.mark.parametrize("message", [b"INSERT INTO evaluation", b"COMMIT", b"UPDATE trial"])
def test_a_connection_that_is_reset_in_the_middle_of_a_message_costs_no_rows(proxy, message):
    with begun(proxy.dsn, proxy.direct) as (trial, journal, _):
        proxy.reset_at(message)
        add_rows(journal, 1)
        end(journal, trial)
    assert proxy.connections > 1
    check_complete(proxy.direct, trial)


def test_a_connection_that_stays_open_without_an_answer_is_given_up(proxy, short):
    with begun(proxy.dsn, proxy.direct) as (trial, journal, notes):
        proxy.freeze()
        add_rows(journal, 1)
        wait_until(lambda: notes)
        proxy.heal()
        end(journal, trial)
    check_complete(proxy.direct, trial)


def test_a_busy_server_is_not_taken_for_a_frozen_one(proxy, monkeypatch):
    """A query that lasts longer than the limit ends if the server answers new connections."""
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", PATIENT)
    probes, answers = [], watch.answers

    def recorded(*arguments):
        probes.append(answers(*arguments))
        return probes[-1]

    monkeypatch.setattr(watch, "answers", recorded)
    with administration(proxy.direct) as cursor, database.Store(proxy.dsn) as store:
        cursor.execute("SELECT pg_advisory_lock(1)")
        reader = threading.Thread(target=store.select, args=("SELECT pg_advisory_lock(1)",))
        reader.start()
        wait_until(lambda: len(probes) >= 2)
        assert probes[:2] == [True, True] and reader.is_alive()
        cursor.execute("SELECT pg_advisory_unlock(1)")
        reader.join()
    assert proxy.connections == 1 + len(probes), "the query was not repeated"


def test_a_lock_that_another_session_holds_costs_no_rows(proxy, short):
    with begun(proxy.direct) as (trial, journal, notes):
        other = psycopg2.connect(proxy.direct)
        other.cursor().execute("LOCK TABLE evaluation IN ACCESS EXCLUSIVE MODE")
        add_rows(journal, 1)
        wait_until(lambda: notes)
        assert "lock timeout" in notes[0]
        other.close()
        end(journal, trial)
    check_complete(proxy.direct, trial)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("default_transaction_read_only = on", "read-only transaction"),
        ("statement_timeout = 50", "statement timeout"),
    ],
)
def test_a_setting_of_the_administrator_costs_no_rows(proxy, setting, message):
    """As after a failover to a standby, or with a limit that is too short for a busy server."""
    name = database_name(proxy.direct)
    with begun(proxy.direct) as (trial, journal, notes), administration(proxy.direct) as cursor:
        cursor.execute("ALTER DATABASE %s SET %s" % (name, setting))
        other = psycopg2.connect(proxy.direct, options="-c statement_timeout=0")
        if "timeout" in setting:
            other.cursor().execute("LOCK TABLE evaluation IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            " AND application_name = 'lrbench'",
            [name],
        )
        add_rows(journal, 1)
        wait_until(lambda: notes)
        assert message in notes[0]
        cursor.execute("ALTER DATABASE %s RESET ALL" % name)
        other.close()
        end(journal, trial)
    check_complete(proxy.direct, trial)


def test_an_administrator_who_ends_the_sessions_again_and_again_costs_no_rows(proxy):
    with begun(proxy.direct) as (trial, journal, _), administration(proxy.direct) as cursor:
        for iteration in range(1, ROWS):
            add_rows(journal, iteration, iteration + 1)
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                " AND application_name = 'lrbench'",
                [database_name(proxy.direct)],
            )
        end(journal, trial)
    check_complete(proxy.direct, trial)


def test_a_server_without_free_connections_costs_no_rows(proxy):
    user = "user_" + uuid.uuid4().hex
    name = database_name(proxy.direct)
    with administration(proxy.direct) as cursor:
        cursor.execute("CREATE ROLE %s LOGIN" % user)
        cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO " + user)
        with begun(proxy.direct + " user=" + user, proxy.direct) as (trial, journal, notes):
            cursor.execute("ALTER DATABASE %s CONNECTION LIMIT 1" % name)  # this session's
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [user]
            )
            add_rows(journal, 1)
            wait_until(lambda: notes)
            assert "too many connections" in notes[0]
            cursor.execute("ALTER DATABASE %s CONNECTION LIMIT -1" % name)
            end(journal, trial)
        check_complete(proxy.direct, trial)
        cursor.execute("DROP OWNED BY %s" % user)
        cursor.execute("DROP ROLE %s" % user)


def test_a_database_that_is_restored_from_an_older_backup_gets_the_trial_again(proxy, dsn):
    """The backup was made before the trial began."""
    name, backup = database_name(proxy.direct), "test_backup_" + uuid.uuid4().hex
    database.Store(proxy.direct).close()
    with administration(dsn) as cursor:
        end_sessions(cursor, name)
        cursor.execute("CREATE DATABASE %s TEMPLATE %s" % (backup, name))
        with begun(proxy.direct, rows=20) as (trial, journal, _):
            end_sessions(cursor, name)
            cursor.execute("DROP DATABASE " + name)
            cursor.execute("ALTER DATABASE %s RENAME TO %s" % (backup, name))
            assert stored_or_none(proxy.direct, trial) is None
            add_rows(journal, 20)
            end(journal, trial)
    check_complete(proxy.direct, trial)


def test_only_the_end_of_a_trial_that_was_lost_brings_it_back(proxy):
    with begun(proxy.direct, rows=3) as (trial, journal, _):
        execute(proxy.direct, "DELETE FROM trial")
        end(journal, trial)
    check_complete(proxy.direct, trial, rows=3)


def test_a_change_that_is_refused_now_waits_and_does_not_hold_up_other_trials(proxy):
    """A trigger is an error of SQLSTATE's class P0, which is not the rows' own fault."""
    first, second, notes = new_trial(), new_trial(), []
    execute(
        proxy.direct,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'not today'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON evaluation"
        " FOR EACH ROW WHEN (new.trial_id = '%s') EXECUTE FUNCTION refuse()" % first.id,
    )
    with database.Recorder(proxy.direct, notes.append) as recorder:
        record(recorder, first, range(3))
        record(recorder, second, range(ROWS))
        wait_until(lambda: n_stored(proxy.direct, second) == ROWS)
    assert "not today" in notes[0] and n_stored(proxy.direct, first) == 0
    assert database.undelivered_trials() >= {first.id} and stored(proxy.direct, second).ended
    with database.Store(proxy.direct) as store, pytest.raises(ChangeRefused, match="not today"):
        store.add(first.id, new_row(0))
    execute(proxy.direct, "DROP TRIGGER refuse ON evaluation")
    database.Store(proxy.direct).close()
    check_complete(proxy.direct, first, rows=3)


def test_refused_rows_can_be_looked_at_and_delivered(proxy, invoke):
    """Only the rows at fault are refused; the trial has its other rows and its end."""
    trial = new_trial()
    execute(proxy.direct, "ALTER TABLE evaluation ADD CONSTRAINT odd CHECK (iteration % 2 = 0)")
    with database.Recorder(proxy.direct) as recorder:
        record(recorder, trial, range(ROWS))
    recorded = stored(proxy.direct, trial)
    assert recorded.state == "finished" and len(recorded.rows) == ROWS // 2
    (path,) = database.undelivered()
    listed = invoke("db", "journals", "--format", "json").stdout
    assert '"state": "refused"' in listed and '"rows": 20' in listed and "odd" in listed
    rows = invoke("db", "journals", path, "--format", "csv").stdout.splitlines()
    assert [line.split(",")[0] for line in rows[1:]] == list(map(str, range(1, ROWS, 2)))
    again = invoke("db", "deliver", "--dsn", proxy.direct)
    assert again.returncode == 4 and "`lrbench db journals` lists them" in again.stderr
    assert database.undelivered() == [path]
    execute(proxy.direct, "ALTER TABLE evaluation DROP CONSTRAINT odd")
    delivered = invoke("db", "deliver", "--dsn", proxy.direct)
    assert delivered.returncode == 0 and "0 journals refused" in delivered.stdout
    check_complete(proxy.direct, trial)
    assert invoke("db", "journals", "--format", "csv").stdout.count("\n") == 1


def test_journals_of_the_same_attempt_for_another_database_do_not_stop_a_trial(proxy):
    """Earlier versions knew one database under two addresses as two."""
    trial, path = leave_journal(proxy.direct, "lrbench at localhost, port 5599")
    with database.Recorder(proxy.direct) as recorder:
        record(recorder, trial, range(ROWS))
    check_complete(proxy.direct, trial)
    assert stored(proxy.direct, trial).attempt == 2 and not os.path.exists(path)


@pytest.fixture
def own_server(monkeypatch):
    """A private server of the test's own, which is the default: yields the process ids."""
    with private_home() as folder:
        database.server.start()
        pid = int((folder / "postgresql" / "data" / "postmaster.pid").read_text().split()[0])
        yield lambda: [pid, *children(pid)]


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as file:
        return list(map(int, file.read().split()))


def signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_server_that_is_stopped_with_sigstop_is_given_up_and_gets_everything_later(
    own_server, short
):
    frozen = []
    trial, notes = new_trial(), []
    try:
        with database.Recorder(None, notes.append) as recorder:
            journal = record(recorder, trial, [0], end=None)
            wait_until(lambda: n_stored(None, trial) == 1)
            frozen = own_server()
            signal_all(frozen, signal.SIGSTOP)
            add_rows(journal, 1)
            end(journal, trial)
        assert any("does not answer" in note for note in notes)
        assert "events wait in" in notes[-1]
        with pytest.raises(InputError, match="does not answer"):
            database.Store()
    finally:
        signal_all(frozen, signal.SIGCONT)
    database.Store().close()
    check_complete(None, trial)


@pytest.mark.parametrize("value", ["x", "0", "-1", "nan", "inf"])
def test_an_invalid_limit_is_reported(invoke, monkeypatch, value):
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", value)
    done = invoke("rank")
    assert done.returncode == 2
    assert "LRBENCH_DB_TIMEOUT: invalid value '%s', expected a number" % value in done.stderr


def test_reading_a_frozen_database_ends_with_a_message(proxy, short, lrbench):
    proxy.freeze()
    done = lrbench("rank", "--dsn", proxy.dsn)
    assert done.returncode == 2 and "cannot use the database" in done.stderr
    assert "check --dsn or LRBENCH_DSN, and whether the server runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_a_command_that_reads_a_frozen_database(proxy, monkeypatch):
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", ENDLESS)
    proxy.freeze_at(b"FROM schema_version")
    process = start("study", "list", "--dsn", proxy.dsn)
    wait_withheld(proxy)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "lrbench: interrupted"


@pytest.mark.parametrize("command", [("rank",), ("train", "solver.prototxt")])
def test_ctrl_c_ends_a_command_that_waits_for_a_connection(proxy, command):
    """Without it, the command ends with status 2 when the time for the connection is over."""
    proxy.freeze()
    process = start(*command, "--dsn", proxy.dsn)
    wait_until(lambda: proxy.connections)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "lrbench: interrupted"


def test_ctrl_c_ends_a_training_in_python_that_waits_for_a_connection(proxy):
    proxy.freeze()
    code = "import lrbench_caffe; lrbench_caffe.train('solver.prototxt', dsn=%r)" % proxy.dsn
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: proxy.connections)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    assert errors.splitlines()[-1].startswith(b"KeyboardInterrupt")


def test_a_connection_that_opens_after_ctrl_c_is_closed(proxy):
    proxy.freeze()
    previous = signal.signal(signal.SIGUSR1, lambda *_: interrupts.add())
    sender = threading.Thread(
        target=lambda: (
            wait_until(lambda: proxy.connections),
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1),
        )
    )
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            open_connection("here", proxy.dsn + " application_name=late")
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, previous)
    attempts = [thread for thread in threading.enumerate() if thread.name == "connection"]
    assert attempts
    proxy.heal()
    for attempt in attempts:
        attempt.join()
    with administration(proxy.direct) as cursor:

        def is_closed():
            cursor.execute("SELECT FROM pg_stat_activity WHERE application_name = 'late'")
            return not cursor.rowcount

        wait_until(is_closed)


def test_the_wait_for_a_connection_is_shown(proxy, monkeypatch):
    monkeypatch.setattr("lrbench_caffe.database.opening._QUIET_SECONDS", 0)
    shown = []

    @contextlib.contextmanager
    def show(activity):
        shown.append(activity)
        proxy.heal()
        yield

    proxy.freeze()
    with waits.shown_by(show):
        database.Store(proxy.dsn).close()
    name = database_name(proxy.dsn)
    assert shown == ["connecting to %s at 127.0.0.1, port %d" % (name, proxy.port)]


def get(address):
    """The status and the text of the answer to a request."""
    try:
        with urllib.request.urlopen(address, timeout=LIMIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("seconds", [SHORT, ENDLESS])
def test_the_live_page_survives_a_frozen_database(proxy, monkeypatch, seconds):
    """It reports that the database does not answer, and recovers; Ctrl-C ends it at once."""
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", seconds)
    process = start("serve", "--port", "0", "--dsn", proxy.dsn)
    address = process.stdout.readline().split()[0]
    wait_until(lambda: get(address)[0] == 200)
    if seconds == SHORT:
        proxy.freeze()
        text = wait_until(lambda: [text for status, text in [get(address)] if status == 503])[0]
        assert "does not answer: no answer for 0.5 s" in text or "timeout expired" in text
        proxy.heal()
        wait_until(lambda: get(address)[0] == 200)
    proxy.withheld = 0
    proxy.freeze()
    while not proxy.withheld:  # until the content that was read last is too old
        threading.Thread(target=get_quietly, args=(address,), daemon=True).start()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and not errors


def get_quietly(address):
    with contextlib.suppress(OSError):
        get(address)


@pytest.fixture
def held_training(proxy, digits, tmp_path):
    """Start a command that trains, and wait until a gate holds it: held_training(*arguments)."""
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = Gate(folder, 3)
    net = nets.net(head=nets.ACCURACY + nets.LOSS + gate.layer)
    solver = nets.write(tmp_path, nets.solver(max_iter=4, test_interval=2), net)

    def begin(*command):
        arguments = ["--data", digits, "--dsn", proxy.dsn]
        process = start(*command, solver, *arguments, cwd=str(tmp_path))
        gate.wait()
        wait_until(lambda: n_rows(proxy.direct) == 2)
        return process, gate

    return begin


def n_rows(dsn):
    with database.Store(dsn, delivers=False) as store:
        return sum(len(trial.rows) for trial in store.trials())


class Notes:
    """A display that keeps the notes, each of which it also passes to a function."""

    def __init__(self, on_note=lambda note: None):
        self.notes, self._on_note = [], on_note

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def begin(self, jobs):
        pass

    def on_event(self, job, kind, content):
        if kind == "note":
            self.note(content)

    def note(self, sentence):
        self.notes.append(sentence)
        self._on_note(sentence)


@pytest.fixture
def made_up_trainer(proxy, short, monkeypatch):
    """A Trainer of made-up trainings, and the policies that it has trained.

    made_up_trainer(display, at_third) calls at_third() before the end of the third training, which
    is the last of the first round.
    """
    monkeypatch.setattr("lrbench_caffe.study.runner.RETRY_SECONDS", 0.05)
    made_up = trial(solver={"max_iter": 100, "test_interval": 50, "batch_size": 50})

    def make(display, at_third):
        trained = []

        def train(job, stop, on_event, threads):
            begun = dataclasses.replace(
                trial(job.policy, (), state="running"), id=job.id, setup=made_up.setup
            )
            on_event("begin", begun)
            for row in made_up.rows:
                on_event("row", row)
            trained.append(job.policy)
            if len(trained) == 3:
                at_third()
            on_event("end", begun.ended_as("finished", time.time()))

        options = {"dsn": proxy.dsn, "describe": lambda _: made_up, "display": lambda: display}
        return Trainer(__file__, Cores(1, train=train), "range", "r", **options), trained

    return make


@pytest.mark.parametrize("message", [b"UPDATE trial SET state", b"INSERT INTO study_tr"])
def test_a_range_test_waits_for_a_database_that_freezes_and_continues(
    proxy, made_up_trainer, message
):
    """It freezes at the end of a training, or between two rounds."""

    def heal(note):
        if "waits for the database" in note:
            proxy.heal()

    display = Notes(heal)
    trainer, trained = made_up_trainer(display, lambda: proxy.freeze_at(message))
    test = range_test.run(trainer, 100)
    assert len(test.trials) == len(trained) == len(set(trained)) > 3
    assert len({trial.rows for trial in test.trials}) == 1
    assert any("the study r waits for the database, and Ctrl-C ends" in n for n in display.notes)
    assert "the database is back: the study r continues" in display.notes


def test_ctrl_c_ends_the_waiting_of_a_range_test_and_the_same_command_continues(
    proxy, made_up_trainer
):
    def interrupt(note):
        if "waits for the database" in note:
            os.kill(os.getpid(), signal.SIGINT)

    trainer, first = made_up_trainer(
        Notes(interrupt), lambda: proxy.freeze_at(b"INSERT INTO study_tr")
    )
    with pytest.raises(KeyboardInterrupt):
        range_test.run(trainer, 100)
    proxy.heal()
    trainer, second = made_up_trainer(Notes(), lambda: None)
    test = range_test.run(trainer, 100)
    assert len(test.trials) == len({*first, *second}) == len(first) + len(second)


def test_a_search_records_its_reasons_after_an_outage(proxy, made_up_trainer, invoke):
    def heal(note):
        if "waits for the database" in note:
            proxy.heal()

    display = Notes(heal)
    trainer, _ = made_up_trainer(display, lambda: proxy.freeze_at(b"UPDATE study SET beginning"))
    tuned = tuner.tune(trainer, functions=["FIX"])
    assert any("waits for the database" in note for note in display.notes)
    with database.Store(proxy.direct) as store:
        assert len(database.studies.reasons(store, "r")) == len(tuned.tried)


def test_a_program_whose_earlier_session_still_has_the_study_continues(proxy):
    """The server does not notice a cut network at once, and the study remains locked until then."""
    stop, notes = Stop(), []
    with database.Store(proxy.direct) as store:
        database.studies.add(store, "s", [Job("/a/solver.prototxt")])
        sessions = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'lrbench on %%'"
        sessions += " AND datname = current_database()"
        with database.studies.Claim("s", proxy.dsn + " tcp_user_timeout=500", stop, notes.append):
            ((first,),) = store.select(sessions)
            proxy.abandon()
            wait_until(lambda: len(store.select(sessions)) == 2)
            (second,) = [pid for (pid,) in store.select(sessions) if pid != first]
            looks = "SELECT query_start FROM pg_stat_activity WHERE pid = %s"
            seen = store.select(looks, [second])
            wait_until(lambda: store.select(looks, [second]) != seen)
            assert not stop.requests and not notes, "its own session does not refuse it"
            store.select("SELECT pg_terminate_backend(%s)", [first])
            wait_until(lambda: getattr(database.studies._runner(store, 1), "pid", 0) == second)
        assert not stop.requests and not notes


@needs_caffe
@pytest.mark.parametrize(
    "command",
    [
        ("train",),
        ("study", "run", "s"),
        # Without an improvement it ends after 4 of 6 iterations, which is a success, too.
        ("train", "--policy", "FIX(k0=1e-30)", "--patience", "4 iterations", "--max-iter", "6"),
    ],
)
def test_a_database_that_freezes_during_a_training_ends_the_command_with_status_3(
    held_training, proxy, command, monkeypatch, invoke
):
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", SHORT)
    process, gate = held_training(*command)
    proxy.freeze()
    gate.open()
    output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 3, output + errors
    assert "the rows of 1 training wait in" in errors and "could not begin" not in errors
    assert n_rows(proxy.direct) == 2
    proxy.heal()
    assert invoke("db", "deliver", "--dsn", proxy.dsn).returncode == 0
    assert n_rows(proxy.direct) == 3


@needs_caffe
def test_ctrl_c_leaves_what_a_frozen_database_does_not_take_to_the_journal(
    held_training, proxy, monkeypatch, invoke
):
    monkeypatch.setenv("LRBENCH_DB_TIMEOUT", ENDLESS)
    process, gate = held_training("train", "--json")
    proxy.freeze()
    gate.open()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C leaves them in" in line:
            break
    else:
        pytest.fail("no message: %s%s" % ("".join(lines), process.stderr.read()))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and "interrupted" in errors
    proxy.heal()
    assert invoke("db", "deliver", "--dsn", proxy.dsn).returncode == 0
    assert n_rows(proxy.direct) == 3
