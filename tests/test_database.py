"""The policy database, on a real private PostgreSQL server in a temporary folder."""

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import LIMIT, wait_until

from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import (
    DIVERGED,
    FAILED,
    FINISHED,
    SET_METRICS,
    Dataset,
    Evaluation,
    Framework,
    Job,
    Network,
    Setup,
    Trial,
    from_dict,
    to_dict,
)

psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2")
from conftest import EMPTY, ROOT, new_database_on, private_home, start_server  # noqa: E402

from lrbench_caffe import database  # noqa: E402
from lrbench_caffe.database import (  # noqa: E402
    Store,
    programs,
    schema,
    server,
    standings,
    studies,
)
from lrbench_caffe.database.columns import EVALUATION_COLUMNS, sql_type  # noqa: E402
from lrbench_caffe.database.writer import NEEDED_RIGHTS  # noqa: E402
from lrbench_caffe.errors import DatabaseUnavailable  # noqa: E402
from lrbench_caffe.study.stop import Stop  # noqa: E402


@pytest.fixture(scope="module")
def private_server():
    """The DSN of a private server that these tests may kill, in an LRBENCH_HOME of its own."""
    with private_home():
        yield start_server()


@pytest.fixture
def new_database(private_server):
    """The DSN of a new database, which has the schema."""
    with new_database_on(private_server) as address:
        yield address


@pytest.fixture
def empty_database(private_server):
    """The DSN of a new database without the schema."""
    with new_database_on(private_server, template=EMPTY) as address:
        yield address


@pytest.fixture
def store(new_database):
    with Store(new_database) as store:
        yield store


NET = 'name: "LeNet"\nlayer { name: "ip" }\n'
LENET = Network("LeNet", hashlib.sha256(NET.encode()).hexdigest(), NET)
MNIST = Dataset("mnist", (1, 28, 28), 60000, 10000)
SETUP = Setup(
    Framework("Caffe", "1.0.0"),
    LENET,
    MNIST,
    10,
    {"base_lr": 0.01, "type": "SGD", "stepvalue": [5, 7]},
    1,
)
STARTED = 1700000000.25


def new_trial(setup=SETUP, policy="SIN2(k0=0.01, k1=0.06, l=2000)", started=STARTED, **changes):
    function = policy.split("(")[0]
    parameters = {"k0": 0.01, "k1": 0.06, "l": 2000}
    return Trial(
        str(uuid.uuid4()), policy, function, parameters, 3, setup, "host", started, **changes
    )


def row(iteration, top1, **changes):
    return dataclasses.replace(
        Evaluation(iteration, 0.01, 0.2, 0.1, top1, 0.99, 0.9, 0.05, 0.002, 0.1), **changes
    )


FIRST = row(0, 0.1, train_loss=None, ac=None, cd=None, cdac=None, ld=None)


def record(store, trial):
    store.begin(trial)
    for evaluation in trial.rows:
        store.add(trial.id, evaluation)
    if trial.ended is not None:
        store.end(trial.id, trial.state, trial.ended, trial.error)
    return trial


def query(dsn, text, *values):
    """Run statements; values are positional, or one dictionary of named values."""
    if len(values) == 1 and isinstance(values[0], dict):
        (values,) = values
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(text, values)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def test_a_recorded_trial_is_read_back_unchanged(store):
    trial = new_trial(rows=(FIRST, row(500, 0.9), row(1000, 0.95))).ended_as(FINISHED, STARTED + 60)
    record(store, trial)
    assert store.trial(trial.id) == trial
    assert from_dict(Trial, json.loads(json.dumps(to_dict(trial)))) == trial


def test_unknown_values_are_read_back_as_none(store):
    setup = dataclasses.replace(SETUP, dataset=Dataset("unknown", None, None, None), classes=None)
    trials = [record(store, new_trial(setup)) for _ in range(2)]
    assert [store.trial(trial.id) for trial in trials] == trials
    assert store.trials(dataset="unknown") == sorted(trials, key=lambda trial: trial.id)


def test_a_running_trial_can_be_watched_with_sql(store, new_database):
    trial = new_trial()
    store.begin(trial)
    assert query(new_database, "SELECT state, top1 FROM result") == [("running", None)]
    for iteration, top1 in ((0, 0.1), (500, 0.9), (1000, 0.8)):
        store.add(trial.id, row(iteration, top1))
        assert query(
            new_database, "SELECT max(iteration) FROM evaluation WHERE trial_id = %s", trial.id
        ) == [(iteration,)]
    assert query(new_database, "SELECT state, iterations, top1 FROM result") == [
        ("running", 500, 0.9)
    ]


def test_the_result_is_the_earliest_row_with_the_highest_top1(store, new_database):
    rows = row(0, 0.1), row(500, 0.9), row(1000, 0.95, ld=0.25), row(1500, 0.95), row(2000, 0.5)
    trial = record(store, new_trial(rows=rows))
    store.end(trial.id, FINISHED, STARTED + 1)
    assert query(new_database, "SELECT best_iteration, best_top1 FROM trial") == [(1000, 0.95)]
    columns = "policy, network, dataset, ld, iterations, top1, top5, ac, cd, cdac, n_params"
    assert query(new_database, "SELECT %s FROM result" % columns) == [
        (
            "SIN2(k0=0.01, k1=0.06, l=2000)",
            "LeNet",
            "mnist",
            0.25,
            1000,
            0.95,
            0.99,
            0.9,
            0.05,
            0.002,
            3,
        )
    ]
    assert store.trials(best_only=True)[0].rows == (trial.rows[2], trial.rows[4])
    (result,) = store.results()
    assert (result.best.iteration, result.best.top1) == (1000, 0.95)


@pytest.mark.parametrize("top1", [(0.9, 0.95, 0.5), (0.5, 0.9, 0.95), (0.9, 0.5, None)])
def test_results_have_the_final_top1_which_is_that_of_the_last_row_with_one(store, top1):
    rows = (
        Evaluation(500 * n, 0.01) if share is None else row(500 * n, share)
        for n, share in enumerate(top1)
    )
    record(store, new_trial(rows=tuple(rows)))
    last = [share for share in top1 if share is not None][-1]
    for loaded in (store.results(), store.trials(), store.trials(best_only=True)):
        assert loaded[0].best.top1 == max(share for share in top1 if share is not None)
        assert loaded[0].final.top1 == last


def test_recording_a_trial_twice_changes_nothing(store, new_database):
    trial = new_trial(rows=(FIRST, row(500, 0.9))).ended_as(
        DIVERGED, STARTED + 2, "the loss became infinite"
    )
    record(store, trial)
    record(store, trial)
    store.add(trial.id, row(500, 0.1))
    assert store.trial(trial.id) == trial
    assert query(new_database, "SELECT count(*) FROM evaluation") == [(2,)]


def test_shared_rows_are_stored_once_without_gaps_in_their_ids(store, new_database):
    for _ in range(5):
        record(store, new_trial())
    record(store, new_trial(policy="FIX(k0=0.01)"))
    tables = "framework", "network", "dataset", "task", "policy"
    assert [query(new_database, "SELECT max(id) FROM " + table)[0][0] for table in tables] == [
        1,
        1,
        1,
        1,
        2,
    ]


def test_trials_are_selected_by_filters(store):
    cifar = dataclasses.replace(SETUP, dataset=dataclasses.replace(MNIST, name="cifar10"))
    first = record(store, new_trial(rows=(row(0, 0.5), row(10, 0.6))))
    second = record(
        store,
        new_trial(cifar, "FIX(k0=0.1)", STARTED + 1).ended_as(FAILED, STARTED + 9, "out of memory"),
    )
    assert store.trials() == [first, second]
    assert store.trials(dataset="mnist") == [first]
    assert store.trials(network="LeNet", dataset="cifar10") == [second]
    assert store.trials(network=LENET.hash) == [first, second]
    assert (
        store.trials(function="FIX")
        == store.trials(policy="FIX(k0=0.1)")
        == store.trials(state=FAILED)
        == [second]
    )
    assert store.trials(function="FIX", state="running") == []


def test_a_policy_may_be_of_any_length(store):
    steps = list(range(1, 3000))
    text = "NSTEP(k0=0.01, gamma=0.9, l=%s)" % steps
    trials = [
        record(store, dataclasses.replace(new_trial(policy=text), parameters={"l": steps}))
        for _ in range(2)
    ]
    assert {trial.id for trial in store.trials(policy=text)} == {trial.id for trial in trials}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_stored_as_null(store, value):
    trial = new_trial()
    store.begin(trial)
    store.add(
        trial.id,
        row(
            0,
            0.5,
            lr=value,
            train_loss=value,
            test_loss=value,
            ac=value,
            cd=value,
            cdac=value,
            ld=value,
        ),
    )
    assert store.trial(trial.id).rows == (
        Evaluation(0, None, None, None, 0.5, 0.99, None, None, None, None),
    )


def test_huge_and_tiny_losses_are_kept(store):
    trial = record(
        store, new_trial(rows=(row(0, 0.5, train_loss=1.7e308, test_loss=5e-324, ld=1.7e308),))
    )
    assert store.trial(trial.id) == trial


@pytest.mark.parametrize(
    "changes",
    [
        {"top1": 1.5},
        {"top5": -0.1},
        {"ac": 2.0},
        {"ld": -1.0},
        {"iteration": -1},
        {"top1": math.nan},
    ],
)
def test_impossible_metrics_are_rejected(store, changes):
    trial = record(store, new_trial())
    with pytest.raises(InputError, match="rejects a value"):
        store.add(trial.id, dataclasses.replace(row(0, 0.5), **changes))
    assert store.trial(trial.id).rows == ()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO evaluation (trial_id, iteration, top1, top5, train_loss) "
        "SELECT id, 1, 0.5, 0.5, 'NaN' FROM trial",
        "UPDATE trial SET state = 'lost'",
        "UPDATE trial SET state = 'finished'",
        "UPDATE trial SET best_iteration = 7, best_top1 = 0.5",
        "UPDATE network SET hash = 'abc'",
        "UPDATE dataset SET shape = '{1,0}'",
        "INSERT INTO policy (text, function, parameters, n_params) "
        "SELECT text, function, '{}', 1 FROM policy",
        "DELETE FROM policy",
    ],
)
def test_the_schema_itself_keeps_the_data_consistent(store, new_database, statement):
    record(store, new_trial())
    with pytest.raises(psycopg2.IntegrityError):
        query(new_database, statement)


def test_rows_and_ends_of_unknown_trials_are_rejected(store):
    unknown = str(uuid.uuid4())
    with pytest.raises(InputError, match=unknown):
        store.add(unknown, row(0, 0.5))
    with pytest.raises(InputError, match="does not have the trial " + unknown):
        store.end(unknown, FINISHED, STARTED)
    with pytest.raises(InputError, match="does not have the trial " + unknown):
        store.trial(unknown)
    with pytest.raises(InputError, match="uuid"):
        store.trial("'; DROP TABLE trial; --")
    assert store.trials() == []


ANY_TEXT = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20
)
HOSTILE = ANY_TEXT | st.sampled_from(
    [
        "'; DROP TABLE trial; --",
        "<script>alert(1)</script>",
        '"\\"',
        "%s %(id)s",
        "{0}",
        "$1",
        "\u202e\U0001f4a3",
        "NULL",
    ]
)


def test_any_text_is_stored_as_text(store):
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
    )
    @given(HOSTILE, HOSTILE, HOSTILE)
    def is_read_back(name, policy, text):
        network = Network(name, hashlib.sha256(text.encode()).hexdigest(), text)
        dataset = dataclasses.replace(MNIST, name=name)
        setup = dataclasses.replace(SETUP, network=network, dataset=dataset, solver={name: text})
        trial = dataclasses.replace(
            new_trial(setup, policy), function="FIX", parameters={policy: policy}, host=text
        )
        trial = record(store, trial.ended_as(FAILED, STARTED, text))
        assert trial in store.trials(network=name, dataset=name, policy=policy)

    is_read_back()
    assert store.trials() != []


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 501])
def test_names_that_cannot_be_stored_are_rejected_with_a_message(store, name):
    with pytest.raises(InputError, match="the database .* value"):
        store.begin(
            new_trial(dataclasses.replace(SETUP, dataset=dataclasses.replace(MNIST, name=name)))
        )
    assert store.trials() == []


def test_an_error_may_have_characters_that_cannot_be_stored(store):
    trial = record(store, new_trial())
    store.end(trial.id, FAILED, STARTED, "a\0b \udcff")
    assert store.trial(trial.id).error == "ab ?"


def _write_trials(dsn, start, number):
    with Store(dsn) as store:
        start.wait(LIMIT)
        for step in range(10):
            network = dataclasses.replace(LENET, name="net %d" % step)
            setup = dataclasses.replace(
                SETUP,
                network=network,
                dataset=dataclasses.replace(MNIST, name="data %d" % step),
                classes=step + 2,
            )
            record(
                store,
                new_trial(setup, "FIX(k0=%d)" % step, rows=(row(number, 0.5),)).ended_as(
                    FINISHED, STARTED + 1
                ),
            )


def test_eight_writers_of_the_same_shared_rows_store_them_once(empty_database):
    """All of them also create the schema at the same time."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    writers = [
        context.Process(target=_write_trials, args=(empty_database, start, number))
        for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(LIMIT)
    assert [writer.exitcode for writer in writers] == [0] * 8
    counts = [
        query(empty_database, "SELECT count(*) FROM " + table)[0][0]
        for table in (
            "framework",
            "network",
            "dataset",
            "task",
            "policy",
            "trial",
            "evaluation",
            "schema_version",
        )
    ]
    assert counts == [1, 10, 10, 10, 10, 80, 80, 1]


def test_a_lost_connection_is_replaced(store, new_database, private_server):
    trial = new_trial()
    store.begin(trial)
    query(
        private_server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lrbench'",
    )
    store.add(trial.id, FIRST)
    assert store.trial(trial.id).rows == (FIRST,)


def test_an_unavailable_database_raises_its_own_error_and_may_return(
    store, new_database, private_server
):
    trial = record(store, new_trial())
    name = new_database.split("dbname=")[-1]
    admin = psycopg2.connect(private_server)
    admin.autocommit = True
    admin.cursor().execute("ALTER DATABASE %s ALLOW_CONNECTIONS false" % name)
    admin.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=name):
            store.add(trial.id, FIRST)
    admin.cursor().execute("ALTER DATABASE %s ALLOW_CONNECTIONS true" % name)
    admin.close()
    store.add(trial.id, FIRST)
    assert store.trial(trial.id).rows == (FIRST,)


def test_a_new_connection_to_another_database_is_refused(store, new_database, private_server):
    """A tunnel or a name may lead to another database later."""
    trial = record(store, new_trial())
    name = new_database.split("dbname=")[-1]
    with new_database_on(private_server) as another:
        Store(another).close()
        other = another.split("dbname=")[-1]
        admin = psycopg2.connect(private_server)
        admin.autocommit = True
        cursor = admin.cursor()

        def swap(*renames):
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'"
            )
            for old, new in renames:
                cursor.execute("ALTER DATABASE %s RENAME TO %s" % (old, new))

        swap((name, "test_aside"), (other, name))
        with pytest.raises(DatabaseUnavailable, match="is not the one that it was before"):
            store.add(trial.id, FIRST)
        swap((name, other), ("test_aside", name))
        admin.close()
        store.add(trial.id, FIRST)
        assert store.trial(trial.id).rows == (FIRST,)


@pytest.fixture
def user(new_database):
    """A user without rights: the address, and a function that runs statements about the user."""
    Store(new_database).close()
    name = "user_" + uuid.uuid4().hex
    query(new_database, "CREATE ROLE %s LOGIN" % name)
    yield new_database + " user=" + name, lambda text: query(new_database, text + " " + name)
    query(new_database, "DROP OWNED BY %s" % name)
    query(new_database, "DROP ROLE %s" % name)


def test_each_right_that_recording_takes_is_checked(user):
    """With these rights and no others, trials can be recorded."""
    address, execute = user
    execute("GRANT SELECT ON schema_version, origin TO")
    for table, rights in NEEDED_RIGHTS.items():
        execute("GRANT %s ON %s TO" % (", ".join(rights), table))
    with Store(address) as store:
        assert store.writing_problem() is None
        trial = record(store, new_trial(rows=(FIRST,)).ended_as(FINISHED, STARTED + 9))
        store.begin(dataclasses.replace(trial, attempt=2, resumed_at=0))
        store.end(trial.id, FINISHED, STARTED + 20, attempt=2)
        for table, rights in NEEDED_RIGHTS.items():
            for right in rights:
                execute("REVOKE %s ON %s FROM" % (right, table))
                assert "lacks rights (%s on %s)" % (right, table) in store.writing_problem()
                execute("GRANT %s ON %s TO" % (right, table))


def test_a_user_who_may_not_write_reads_but_does_not_record(user):
    address, execute = user
    execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO")
    with Store(address) as store:
        assert store.trials() == []
        with pytest.raises(DatabaseUnavailable, match="not allow this user .* permission denied"):
            store.begin(new_trial())
    with pytest.raises(InputError, match=r"cannot record trainings: .* lacks rights .* with --dsn"):
        database.Recorder(address)


def test_a_server_whose_transactions_only_read_is_reported(store, new_database):
    name = new_database.split("dbname=")[-1]
    query(new_database, "ALTER DATABASE %s SET default_transaction_read_only = on" % name)
    with Store(new_database) as reader:
        assert reader.trials() == []
    with pytest.raises(InputError, match="only read .default_transaction_read_only is on"):
        database.Recorder(new_database)


@pytest.mark.long
def test_a_standby_is_read_and_not_recorded_in(store, private_server):
    trial = record(store, new_trial())
    folder = Path(server.status().folder)
    standby = folder / "standby"
    backup = programs.find_program("pg_basebackup", str(folder))
    subprocess.run(
        [backup, "-h", str(folder), "-U", "lrbench", "-D", str(standby), "-R", "-c", "fast"],
        check=True,
    )
    with server._open_folder(str(folder)) as opened:
        owner = folder.stat()
        for path in [standby, *standby.rglob("*")]:
            os.chown(str(path), owner.st_uid, owner.st_gid)
        postgres = [programs.find_program("postgres", str(folder)), "-D", opened.inside("standby")]
        settings = dict(server._SETTINGS, port="5433", unix_socket_directories=opened.inside())
        postgres += ["--%s=%s" % setting for setting in settings.items()]
        running = subprocess.Popen(
            [*opened.command_prefix, *postgres], cwd="/", pass_fds=[opened.descriptor]
        )
    try:
        address = store._dsn.replace("port=5432", "port=5433")
        while True:
            try:
                with Store(address) as reader:
                    assert reader.trials() == [trial]
                break
            except (InputError, DatabaseUnavailable):  # it still starts
                assert running.poll() is None
        with pytest.raises(InputError, match="the server is a standby"):
            database.Recorder(address)
    finally:
        running.send_signal(signal.SIGINT)
        running.wait()
        shutil.rmtree(str(standby))


def test_the_private_server_is_started_on_demand_and_after_a_crash(private_server, monkeypatch):
    monkeypatch.delenv("LRBENCH_DSN", raising=False)
    with Store() as store:
        trial = record(store, new_trial())
        pid_file = Path(server.status().folder, "data", "postmaster.pid")
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
        store.add(trial.id, FIRST)
        assert store.trial(trial.id).rows == (FIRST,)
    server.stop()
    with Store() as store:
        assert store.trials() == [store.trial(trial.id)]


def test_lrbench_dsn_names_the_database_and_an_argument_overrides_it(new_database, monkeypatch):
    monkeypatch.setenv("LRBENCH_DSN", new_database)
    with Store() as store:
        trial = record(store, new_trial())
    assert query(new_database, "SELECT id::text FROM trial") == [(trial.id,)]
    monkeypatch.setenv("LRBENCH_DSN", "host=nowhere.invalid")
    with Store(new_database) as store:
        assert store.trials() == [trial]
    assert database.shell_command(new_database)[1:] == [new_database]


def _listener(answer):
    """A server that is not PostgreSQL: its listening socket."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.recv(1000)
            client.sendall(answer)
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    "dsn, reason",
    [
        ("postgresql://me:secret@127.0.0.1:1/trials", "trials at 127.0.0.1, port 1: .*refused"),
        (
            "host=nowhere.invalid user=me password=secret dbname=trials",
            "trials at nowhere.invalid, port 5432: .*translate",
        ),
        (
            "host=/nowhere dbname=trials password=secret",
            "trials at /nowhere, port 5432: .*No such file",
        ),
        ("not a dsn secret", "not a connection string: write postgresql://"),
        ("host=localhost secret=1", "not a connection string"),
        ("postgresql://me:secret@127.0.0.1:1/trials?connect_timeout=soon", "connect_timeout"),
    ],
)
def test_an_unreachable_database_is_reported_without_its_password(dsn, reason):
    with pytest.raises(InputError, match=reason) as caught:
        Store(dsn)
    assert "secret" not in str(caught.value).replace("invalid dsn", "") and "\n" not in str(
        caught.value
    )


def test_a_server_that_is_not_postgresql_is_reported():
    listener = _listener(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(InputError, match="cannot use the database .* at 127.0.0.1"):
        Store("host=127.0.0.1 port=%d dbname=trials" % listener.getsockname()[1])
    listener.close()


def test_a_database_that_does_not_exist_is_reported(private_server):
    with pytest.raises(InputError, match='database "nothing" does not exist'):
        Store(private_server + " dbname=nothing")


def test_tables_of_another_program_are_left_alone(empty_database):
    query(empty_database, "CREATE TABLE trial (lawyer text)")
    with pytest.raises(InputError, match='cannot create the schema .*"trial" already exists'):
        Store(empty_database)
    assert query(empty_database, "SELECT to_regclass('policy')") == [(None,)]


@pytest.mark.parametrize(
    "statements, problem",
    [
        ("CREATE TABLE schema_version (version text)", "already exists"),
        (
            "CREATE TABLE schema_version (version text); INSERT INTO schema_version VALUES ('1.2')",
            "invalid input syntax",
        ),
    ],
)
def test_a_table_of_versions_of_another_program_is_reported(empty_database, statements, problem):
    query(empty_database, statements)
    with pytest.raises(InputError, match="cannot create the schema .*" + problem):
        Store(empty_database)


def test_a_database_without_its_own_id_is_reported(store, new_database):
    query(new_database, "DELETE FROM origin")
    with pytest.raises(InputError, match="its table origin has lost the row with here = true"):
        Store(new_database)


def test_a_database_newer_than_the_program_is_rejected(new_database):
    Store(new_database).close()
    query(new_database, "INSERT INTO schema_version VALUES (1000)")
    with pytest.raises(InputError, match="schema version 1000, .* update lrbench_caffe"):
        Store(new_database)


@pytest.fixture
def later_program(tmp_path):
    """The schema of a later version of the program, which has two more migrations."""
    shutil.copy(os.path.join(schema.FOLDER, "schema.sql"), str(tmp_path))
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    newest = len(list(Path(schema.FOLDER).glob("migrations/*.sql"))) + 1
    for path in Path(schema.FOLDER).glob("migrations/*.sql"):
        shutil.copy(str(path), str(migrations))
    (migrations / ("%04d.sql" % (newest + 1))).write_text("CREATE TABLE later (name text);")
    (migrations / ("%04d.sql" % (newest + 2))).write_text(
        "ALTER TABLE later ADD COLUMN stopped boolean;"
    )
    return tmp_path, newest


def _upgrade(dsn, folder):
    connection = psycopg2.connect(dsn)
    try:
        schema.upgrade(connection, str(folder))
    finally:
        connection.close()


def test_an_older_database_is_upgraded_and_keeps_its_trials(store, new_database, later_program):
    folder, newest = later_program
    trial = record(store, new_trial())
    context = multiprocessing.get_context("fork")
    upgrades = [context.Process(target=_upgrade, args=(new_database, folder)) for _ in range(4)]
    for upgrade in upgrades:
        upgrade.start()
    for upgrade in upgrades:
        upgrade.join(LIMIT)
    assert [upgrade.exitcode for upgrade in upgrades] == [0] * 4
    assert query(new_database, "SELECT max(version) FROM schema_version") == [(newest + 2,)]
    assert query(new_database, "SELECT stopped FROM later") == []
    assert store.trial(trial.id) == trial


def test_a_migration_that_fails_changes_nothing(store, new_database, later_program):
    folder, newest = later_program
    (folder / "migrations" / ("%04d.sql" % (newest + 2))).write_text(
        "ALTER TABLE later ADD COLUMN name text;"
    )
    with pytest.raises(psycopg2.Error):
        _upgrade(new_database, folder)
    assert query(new_database, "SELECT max(version), to_regclass('later') FROM schema_version") == [
        (newest, None)
    ]


STRUCTURE = """
    SELECT 'column', table_name || '.' || column_name, concat_ws(
        ' ', domain_name, data_type, is_nullable, column_default, is_identity)
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION SELECT 'constraint', conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = 'public'
    UNION SELECT 'function', proname, prosrc
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    ORDER BY 1, 2, 3"""

TRIAL_OF_VERSION_1 = """
    INSERT INTO framework (name, version) VALUES ('Caffe', '1.0.0');
    INSERT INTO network (name, hash, prototxt) VALUES ('LeNet', %(hash)s, %(prototxt)s);
    INSERT INTO task (classes) VALUES (10);
    INSERT INTO dataset (name, shape, train_samples, test_samples)
        VALUES ('mnist', '{1,28,28}', 60000, 10000);
    INSERT INTO policy (text, function, parameters, n_params)
        VALUES ('FIX(k0=0.01)', 'FIX', '{"k0": 0.01}', 1);
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed,
                       host, state, started_at, ended_at, best_iteration, best_top1)
        VALUES (%(id)s, 1, 1, 1, 1, 1, '{"max_iter": 500}', 1, 'host', 'finished',
                to_timestamp(1700000000.25), to_timestamp(1700000060), 500, 0.9);
    INSERT INTO evaluation (trial_id, iteration, lr, train_loss, test_loss, top1, top5, ac, cd,
                            cdac, ld)
        VALUES (%(id)s, 500, 0.01, 0.2, 0.1, 0.9, 0.99, 0.9, 0.05, 0.002, 0.1)"""


def test_a_database_of_version_1_gets_the_structure_of_a_new_one_and_keeps_its_trials(
    store, new_database, private_server
):
    trial = Trial(
        str(uuid.uuid4()),
        "FIX(k0=0.01)",
        "FIX",
        {"k0": 0.01},
        1,
        dataclasses.replace(SETUP, solver={"max_iter": 500}),
        "host",
        STARTED,
        rows=(row(500, 0.9),),
    ).ended_as(FINISHED, 1700000060)
    with new_database_on(private_server, template=EMPTY) as old:
        query(old, Path(__file__).with_name("schema_version_1.sql").read_text())
        query(old, "INSERT INTO schema_version (version) VALUES (1)")
        values = {"id": trial.id, "hash": LENET.hash, "prototxt": LENET.prototxt}
        query(old, TRIAL_OF_VERSION_1, values)
        with Store(old) as upgraded:
            assert upgraded.trials() == [trial]
            assert [task.dataset for task in standings.tasks(upgraded)] == [MNIST]
        assert query(old, STRUCTURE) == query(new_database, STRUCTURE)


SET_OF_OTHERS = dict.fromkeys(SET_METRICS, 0.25)


def test_a_database_of_version_8_keeps_its_trials_rows_results_and_standings(
    new_database, private_server
):
    """The dump has trials with several heads, with two test nets, without a test net, diverged."""
    contents = [
        "SELECT * FROM %s ORDER BY 1, 2, 3" % columns
        for columns in ("standing", "study_trial", "policy", "network")
    ]
    contents += [
        "SELECT trial_id, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, "
        "resumed_at, class_confidence, heads FROM evaluation ORDER BY 1, 2",
        "SELECT trial, policy, seed, state, ld, iterations, top1, top5, ac, cd, cdac, n_params, "
        "lr, train_loss, test_loss, error FROM result ORDER BY 1",
    ]
    with new_database_on(private_server, template=EMPTY) as old:
        query(old, Path(__file__).with_name("schema_version_8.sql").read_text())
        before = [query(old, content) for content in contents]
        with Store(old) as upgraded:
            trials = upgraded.trials()
            assert [query(old, content) for content in contents] == before
            assert len(trials) == 5 and sum(len(trial.rows) for trial in trials) == 10
            assert {(row.measured_on, row.other_sets) for t in trials for row in t.rows} == {
                ("test", None)
            }
            results = query(old, "SELECT trial::text, top1, selected_on, reported_on FROM result")
            for trial in trials:
                summary = trial.summary
                expected = (summary.top1, "test", "test") if summary else (None, None, None)
                assert (trial.id, *expected) in results
            assert any(row.heads for trial in trials for row in trial.rows)
            # A trial of this version may follow: with rows on several sets.
            new = dataclasses.replace(
                row(500, 0.9), measured_on="validation", other_sets={"test": SET_OF_OTHERS}
            )
            upgraded.add(trials[0].id, new)
            assert upgraded.trial(trials[0].id).rows[-1] == new
        assert query(old, STRUCTURE) == query(new_database, STRUCTURE)


def test_the_evaluation_table_has_the_listed_columns_with_their_types(store, new_database):
    columns = dict(
        query(
            new_database,
            """SELECT attname, format_type(COALESCE(NULLIF(typbasetype, 0), atttypid), NULL)
               FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
               WHERE attrelid = 'evaluation'::regclass AND attnum > 0 AND NOT attisdropped""",
        )
    )
    types = {column: sql_type(column) for column in EVALUATION_COLUMNS}
    types = {name: type.replace("float8", "double precision") for name, type in types.items()}
    assert columns == dict(types, trial_id="uuid")


def test_every_table_has_a_comment(store, new_database):
    assert (
        query(
            new_database,
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
                                  AND relkind IN ('r', 'v') AND obj_description(oid) IS NULL""",
        )
        == []
    )


def test_an_attempt_resumed_from_a_snapshot_replaces_the_rows_after_it(store):
    """The journals of the two attempts may arrive in any order."""
    first = new_trial()
    store.begin(first)
    for iteration in (0, 500, 1000):
        store.add(first.id, row(iteration, 0.5))
    again = dataclasses.replace(first, attempt=2, resumed_at=500, host="elsewhere")
    store.begin(again)
    store.begin(first)
    assert [r.iteration for r in store.trial(first.id).rows] == [0, 500]
    store.add(first.id, row(1000, 0.9), attempt=1)
    store.add(first.id, dataclasses.replace(row(1000, 0.6), resumed_at=500), attempt=2)
    store.end(first.id, "interrupted", 2e9, attempt=1)
    assert store.trial(first.id).state == "running"
    store.end(first.id, "finished", 3e9, attempt=2)
    store.end(first.id, "interrupted", 4e9, attempt=1)
    stored = store.trial(first.id)
    assert (stored.state, stored.ended, stored.attempt, stored.resumed_at, stored.host) == (
        "finished",
        3e9,
        2,
        500,
        "elsewhere",
    )
    assert [(r.iteration, r.top1, r.resumed_at) for r in stored.rows] == [
        (0, 0.5, None),
        (500, 0.5, None),
        (1000, 0.6, 500),
    ]


def test_only_new_jobs_are_added_to_a_study(store):
    jobs = [Job("/a/solver.prototxt", policy="FIX(k0=0.1)", seed=seed) for seed in (1, 2)]
    studies.add(store, "s", jobs[:1])
    first = studies.jobs(store, "s")
    studies.add(store, "s", jobs)
    assert studies.jobs(store, "s")[:1] == first
    assert [
        (entry.job.seed, entry.state, entry.attempts) for entry in studies.jobs(store, "s")
    ] == [(1, None, 0), (2, None, 0)]
    (summary,) = studies.summaries(store)
    assert (summary.name, summary.states, summary.running) == ("s", {"waiting": 2}, False)
    with pytest.raises(InputError, match="no study"):
        studies.jobs(store, "other")


def test_one_program_at_a_time_claims_a_study_and_receives_requests_to_stop(store, new_database):
    studies.add(store, "s", [Job("/a/solver.prototxt")])
    stop = Stop()
    with studies.Claim("s", new_database, stop, print):
        assert studies.summaries(store)[0].running
        with pytest.raises(
            InputError,
            match="already running .lrbench on .*, process %d.*study stop s" % os.getpid(),
        ):
            studies.Claim("s", new_database, Stop(), print)
        asker = threading.Thread(target=lambda: studies.stop(Store(new_database), "s"))
        asker.start()
        wait_until(lambda: stop.requests)
        assert asker.is_alive(), "it waits until the study has ended"
    asker.join()
    assert not studies.summaries(store)[0].running and stop.requests == 1
    with pytest.raises(InputError, match="is not running"):
        studies.stop(store, "s")
    again = Stop()
    with studies.Claim("s", new_database, again, print):
        first = latest_look(new_database)
        wait_until(lambda: latest_look(new_database) > first)
    assert not again.requests, "earlier requests are reset"


CLAIMS = """
    FROM pg_stat_activity
    WHERE application_name LIKE 'lrbench on %%' AND datname = current_database()"""


def latest_look(dsn):
    """When a program that has claimed a study last read the requests to stop it."""
    return query(dsn, "SELECT max(query_start) " + CLAIMS)[0][0]


def test_a_missing_psycopg2_is_reported_with_the_packages_to_install():
    code = "import sys; sys.modules['psycopg2'] = None; import lrbench_caffe.database"
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ, PYTHONPATH=ROOT),
        stderr=subprocess.PIPE,
        text=True,
    )
    last_line = completed.stderr.splitlines()[-1]
    assert "InputError" in last_line and "install python3-psycopg2" in last_line


def test_a_claim_outlives_its_connection(store, new_database):
    studies.add(store, "s", [Job("/a/solver.prototxt")])
    with studies.Claim("s", new_database, Stop(), print):
        first = query(new_database, "SELECT pid, pg_terminate_backend(pid) " + CLAIMS)[0][0]
        wait_until(lambda: (first,) not in query(new_database, "SELECT pid " + CLAIMS))
        wait_until(lambda: studies.summaries(store)[0].running)
