"""Export and import: trials arrive unchanged and once; an invalid file changes nothing."""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, new_database_on
from studies import start
from trials import NETWORK, record, trial
from waiting import wait_until

from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import Job, Network

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
import psycopg2

from lrbench_caffe.database import Store, exchange, incoming, selection, studies
from lrbench_caffe.database.columns import COLUMN_LIST
from lrbench_caffe.database.export_format import VERSION


@pytest.fixture(scope="module")
def databases(dsn):
    """Create databases: databases() returns the DSN of a new, empty one."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(new_database_on(dsn))


def fill(dsn, *trials):
    with Store(dsn) as store:
        return record(store, *trials)


def stored(dsn, **filters):
    with Store(dsn) as store:
        return sorted(store.trials(**filters), key=lambda trial: trial.id)


def row_counts(dsn):
    with Store(dsn) as store, store.single_transaction() as cursor:
        counts = []
        for table in (
            "origin",
            "framework",
            "network",
            "dataset",
            "task",
            "policy",
            "trial",
            "evaluation",
        ):
            cursor.execute("SELECT count(*) FROM " + table)
            counts += cursor.fetchone()
        return counts


TRIALS = (
    dataclasses.replace(
        trial("SIN2(k0=0.01, k1=0.06, l=2000)"), started=1600000000.0
    ),  # the first in the file
    trial("NSTEP(k0=0.05, gamma=0.1, l=[100, 200])", seed=2),
    trial(dataset='a "name" <b>\'s</b>\\N'),
    trial(state="failed", top1=(), error="Check failed:\n\ttab \\ backslash \x1b[31mred\x1b[0m"),
    trial(state="running", top1=(0.1, 0.2)),
    trial(classes=None),
    trial(top1=tuple(n / 500 for n in range(450)), solver={"max_iter": 45000}),
    trial("WARMUP(k0=0.01) for 400 then NSTEP(k0=0.1, gamma=0.1, l=[5, 7])"),
    trial("WARMUP(k0=0.001) for 22 then PLATEAU(k0=0.05, k1=0.001, gamma=0.5, l=44, of=top1)"),
    trial("SGDR(k0=0.05, k1=0, l=10, mult=2)"),
    dataclasses.replace(
        trial(),
        policy="multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, 7])",
        function="multistep",
        parameters={"base_lr": 0.1, "gamma": 1.5, "stepvalue": [5, 7]},
        n_params=4,
    ),
    trial(classes=(0.5,) * 30000, n_classes=30000),
)


@pytest.fixture(scope="module")
def file(databases, tmp_path_factory):
    """An export of TRIALS and the DSN of a database with them; tests must not change them."""
    dsn = databases()
    fill(dsn, *TRIALS)
    path = str(tmp_path_factory.mktemp("export") / "out.jsonl")
    assert exchange.export_trials(path, dsn, {}, "a lab's") == len(TRIALS)
    return path, dsn


def test_trials_arrive_unchanged_except_for_their_origin(file, databases):
    path, source = file
    target = databases()
    assert exchange.import_trials(path, target) == (len(TRIALS), len(TRIALS), 0)
    assert stored(target) == [
        dataclasses.replace(trial, origin="a lab's") for trial in stored(source)
    ]
    with Store(target) as store, store.single_transaction() as cursor:
        cursor.execute(
            "SELECT best_iteration, best_top1 FROM trial"
            " WHERE best_top1 > 0.89 AND best_top1 < 0.899"
        )
        assert cursor.fetchall() == [(44900, 0.898)]


def test_importing_again_changes_nothing(file, databases):
    path, source = file
    target = databases()
    exchange.import_trials(path, target)
    before = row_counts(target), stored(target)
    assert exchange.import_trials(path, target) == (len(TRIALS), 0, 0)
    assert (row_counts(target), stored(target)) == before
    before = row_counts(source), stored(source)
    assert exchange.import_trials(path, source) == (len(TRIALS), 0, 0)
    assert (row_counts(source), stored(source)) == before, (
        "in the database they come from, they have no origin"
    )


def test_datasets_networks_and_policies_are_merged_by_content(file, databases):
    path, _ = file
    target = databases()
    fill(target, trial("SIN2(k0=0.01, k1=0.06, l=2000)", seed=9))
    exchange.import_trials(path, target)
    origin, framework, network, dataset, task, policy, trials, _ = row_counts(target)
    assert (origin, framework, network, dataset, task, policy, trials) == (
        2,
        1,
        1,
        2,
        2,
        7,
        len(TRIALS) + 1,
    )


def test_a_third_database_has_the_first_as_origin(file, databases, tmp_path):
    path, source = file
    second, third, on = databases(), databases(), str(tmp_path / "on.jsonl")
    exchange.import_trials(path, second)
    exchange.export_trials(on, second, {"dataset": "data"}, "the second")
    exchange.import_trials(on, third)
    assert {trial.origin for trial in stored(third)} == {"a lab's"}
    exchange.import_trials(on, source)
    assert {trial.origin for trial in stored(source)} == {None}


def test_a_trial_that_was_still_running_is_brought_up_to_date(databases, tmp_path):
    source, target, path = databases(), databases(), str(tmp_path / "out.jsonl")
    (running,) = fill(source, trial(state="running", top1=(0.1, 0.2), solver={"max_iter": 900}))
    exchange.export_trials(path, source, {})
    exchange.import_trials(path, target)
    with Store(source) as store:
        store.add(running.id, trial(top1=[0.9] * 10).rows[9])
        store.end(running.id, "finished", 1700000900.0)
    exchange.export_trials(path, source, {})
    assert exchange.import_trials(path, target) == (1, 0, 1)
    (updated,) = stored(target)
    assert updated.state == "finished" and [row.iteration for row in updated.rows] == [0, 100, 900]


def test_a_failed_trial_that_was_trained_again_is_brought_up_to_date(databases, tmp_path):
    """Its new attempt may have a corrected net. The file from before then changes nothing."""
    source, target = databases(), databases()
    before, after = str(tmp_path / "before.jsonl"), str(tmp_path / "after.jsonl")
    (failed,) = fill(source, trial(state="failed", error="no memory", top1=(0.1,)))
    exchange.export_trials(before, source, {})
    exchange.import_trials(before, target)
    other = Network("corrected", hashlib.sha256(b"other").hexdigest(), "other")
    setup = dataclasses.replace(failed.setup, network=other, seed=2)
    again = dataclasses.replace(failed, setup=setup, attempt=2, rows=trial().rows)
    with Store(source) as store:
        store.begin(again)
        store.add(again.id, *again.rows, attempt=2)
        store.end(again.id, "finished", 1700000900.0, attempt=2)
    exchange.export_trials(after, source, {})
    assert exchange.import_trials(after, target) == (1, 0, 1)
    for file in (before, after):
        assert exchange.import_trials(file, target) == (1, 0, 0)
        (updated,) = stored(target)
        assert updated.state == "finished" and updated.setup == setup
        assert [row.top1 for row in updated.rows] == [row.top1 for row in again.rows]
    assert exchange.import_trials(before, source, restore=True) == (1, 0, 0)
    (own,) = stored(source)
    assert own.setup == setup and own.state == "finished"


def signed(lines):
    """The text of a file with these lines and a last line with the right checksum."""
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    trials = text.count('{"trial"')
    return (
        text
        + json.dumps(
            {
                "end": {
                    "trials": trials,
                    "sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
                }
            }
        )
        + "\n"
    )


def changed(kind, **values):
    """A function that changes the first line of a kind and returns its index."""

    def change(lines):
        n = next(n for n, line in enumerate(lines) if kind in line)
        lines[n] = {kind: dict(lines[n][kind], **values)} if values else lines[n]
        return n

    return change


def changed_row(position, value):
    """A function that changes a value of the first row."""

    def change(lines):
        n = next(n for n, line in enumerate(lines) if "rows" in line)
        lines[n]["rows"][0][position] = value
        return n

    return change


def replaced(kind, text):
    """A function that replaces the first line of a kind."""

    def change(lines):
        n = next(n for n, line in enumerate(lines) if kind in line)
        lines[n] = text + "\n"
        return n

    return change


HOSTILE = {
    "text for a number": (changed_row(4, "0.5"), "expected a number"),
    "true for a number": (changed_row(1, True), "expected a number"),
    "an accuracy above 1": (changed_row(4, 1.5), "top1="),
    "a huge number": (changed_row(9, 1e308), "range"),
    "an accuracy of null": (changed_row(4, None), "top1="),
    "an iteration above 2**31": (changed_row(0, 2**40), "iteration"),
    "text among confidences": (changed_row(11, ["x"]), "class_confidence"),
    "a million-character name": (changed("dataset", name="x" * 10**6), "1000000 characters"),
    "an empty name": (changed("dataset", name=""), "0 characters"),
    "a NUL in a name": (changed("dataset", name="a\0b"), "expected text"),
    "a terminal's control sequence": (changed("dataset", name="\x9b31m"), "expected text"),
    "half a surrogate pair": (changed("network", name="\ud800"), "expected text"),
    "a number for a name": (changed("dataset", name=5), "expected text"),
    "a shape of text": (changed("dataset", shape=["1; DROP TABLE trial"]), "shape"),
    "text for a batch size": (changed("trial", solver={"batch_size": "sixty"}), "batch_size"),
    "a negative length": (changed("trial", solver={"max_iter": -5}), "max_iter"),
    "text for a momentum": (changed("trial", solver={"momentum": "much"}), "momentum"),
    "SQL for a function": (
        changed("policy", text="'; DROP TABLE trial; --"),
        "cannot read the policy",
    ),
    "parameters of another policy": (
        changed("policy", parameters={"k0": 5}),
        "match its text",
    ),
    "the function of another policy": (
        changed("policy", function="WARMUP then FIX"),
        "match its text",
    ),
    "a text that is slow to parse": (
        changed("policy", text="FIX(k0=%s1)" % ("1+" * 300000)),
        "cannot read the policy",
    ),
    "a policy that leaves its quotes": (
        changed("policy", text='fixed(base_lr=0.1"\nx: 1)', function="fixed"),
        "cannot read the policy",
    ),
    "a confidence too small for the database": (changed_row(11, [1e-300]), "class_confidence"),
    "true for a version": (changed("lrbench", version=True), "True"),
    "a number too large for a float": (
        replaced(
            "rows", '{"rows": [[0, 1e400, null, 1, 0, 0, null, null, null, null, null, null]]}'
        ),
        "range",
    ),
    "the hash of another network": (changed("network", hash="0" * 64), "hash"),
    "a reference to nothing": (changed("trial", policy=99), "99"),
    "text for a reference": (changed("trial", network="1"), "network"),
    "an unknown state": (changed("trial", state="superb"), "superb"),
    "SQL for a UUID": (changed("trial", id="'; DROP TABLE trial; --"), "UUID"),
    "a finished trial without an end": (changed("trial", state="finished", ended=None), "end"),
    "a nested solver": (changed("trial", solver={"a": {"b": 1}}), "solver"),
    "a huge seed": (changed("trial", seed=10**19), "seed"),
    "an unknown field": (changed("trial", more=1), "more"),
    "another version": (changed("lrbench", version=2), "version 2"),
    "100000 brackets": (replaced("trial", '{"trial": ' + "[" * 100000), "nested"),
    "a number of a million digits": (
        replaced("trial", '{"trial": %s}' % ("9" * 10**6)),
        "1000000 digits",
    ),
    "NaN": (replaced("rows", '{"rows": [[NaN]]}'), "NaN"),
    "SQL for JSON": (replaced("rows", "DROP TABLE trial;"), "not JSON"),
    "an unknown kind of line": (replaced("rows", '{"exec": "rm"}'), "exec"),
    "a list for an object": (replaced("rows", "[1, 2]"), "one key"),
    "a line of 5 MB": (
        replaced("rows", '{"rows": "%s"}' % ("x" * (5 << 20))),
        "longer than 4 MB",
    ),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_file_is_refused_with_the_line_and_changes_nothing(case, file, tmp_path):
    path, dsn = file
    change, message = HOSTILE[case]
    with open(path) as good:
        lines = [json.loads(line) for line in good][:-1]
    line = change(lines) + 1
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(signed(lines).encode("utf-8", "replace"))
    before = row_counts(dsn)
    with pytest.raises(InputError, match="line %d: " % line) as error:
        exchange.import_trials(str(bad), dsn)
    assert (
        message in str(error.value)
        and "nothing was imported" in str(error.value)
        and len(str(error.value)) < 700
    )
    assert row_counts(dsn) == before


def test_a_missing_or_unsuitable_file_is_reported(file, tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="cannot be read"):
            exchange.import_trials(str(path), file[1])
    with pytest.raises(InputError, match="line 1: the file is not an export"):
        exchange.import_trials("/dev/zero", file[1])


def test_html_and_sql_in_names_stay_text(file, databases):
    path, _ = file
    target = databases()
    exchange.import_trials(path, target)
    assert len(stored(target, dataset='a "name" <b>\'s</b>\\N')) == 1


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "cut off|JSON"),
        (lambda data: data.replace(b'"top5"', b'"top5"').replace(b"0.9,", b"0.8,", 1), "checksum"),
        (lambda data: data + b"{}\n", "after its last line"),
        (lambda data: b"", "line 1: the file is empty, so it is not an export of LRBench"),
        (lambda data: b"\xff\xfe" + data, "line 1: the file is not an export of LRBench"),
        (lambda data: data[data.index(b"\n") + 1 :], "line 1: the file is not an export"),
        (gzip.compress, "line 1: the file is not an export"),
        (lambda data: bytes(1 << 20), "line 1: the file is not an export"),
        (lambda data: bytes(5 << 20), "line 1: the file is not an export"),
        (lambda data: b"policy,top1\nFIX,0.9\n", "line 1: the file is not an export"),
        (
            lambda data: data.replace(b"\n", b"\n{oops\n", 1),
            "line 2: the line is not JSON at column 2;",
        ),
        (lambda data: data.replace(b"\n", b"\n\xff\n", 1), "line 2: the line is not UTF-8"),
    ],
)
def test_nothing_of_a_damaged_file_is_imported(damage, message, file, databases, tmp_path):
    target = databases()
    bad = tmp_path / "bad.jsonl"
    with open(file[0], "rb") as good:
        bad.write_bytes(damage(good.read()))
    before = row_counts(target)
    with pytest.raises(InputError, match=message):
        exchange.import_trials(str(bad), target)
    assert row_counts(target) == before


def test_a_duplicate_and_a_conflicting_trial_are_refused(file, databases, tmp_path):
    path, source = file
    with open(path) as good:
        lines = [json.loads(line) for line in good][:-1]
    trials = [n for n, line in enumerate(lines) if "trial" in line]
    twice = lines + [lines[trials[0]]]
    other = [dict(line) for line in lines]
    other[trials[0]] = {"trial": dict(lines[trials[0]]["trial"], seed=77)}
    for bad, message in (
        (twice, "line %d: .* twice" % len(twice)),
        (other, "line %d: .*already has a trial" % (trials[0] + 1)),
    ):
        (tmp_path / "bad.jsonl").write_text(signed(bad))
        with pytest.raises(InputError, match=message):
            exchange.import_trials(str(tmp_path / "bad.jsonl"), source)


@pytest.mark.parametrize("name", ["table-7", "tune-digits"])
def test_the_exports_of_the_repository_are_exported_again_unchanged(name, databases, tmp_path):
    original = os.path.join(ROOT, "results", name + ".jsonl")
    again, target = str(tmp_path / "again.jsonl"), databases()
    trials = incoming.trials(original)
    assert exchange.import_trials(original, target) == (len(trials), len(trials), 0)
    assert exchange.export_trials(again, target, {}) == len(trials)
    assert incoming.trials(again) == trials
    with open(original) as first, open(again) as second:
        # The first line has the time of the export, and so the last line has another checksum.
        assert first.readlines()[1:-1] == second.readlines()[1:-1]


def test_a_row_has_the_columns_of_version_1_of_the_format():
    """Exports of other versions of this program must stay readable: see VERSION."""
    assert (VERSION, COLUMN_LIST) == (
        1,
        "iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at, "
        "class_confidence, heads, measured_on, other_sets",
    )


def test_the_commands_report_what_they_did(file, invoke, tmp_path):
    done = invoke("db", "export", tmp_path / "out.jsonl", "--dsn", file[1])
    assert done.returncode == 0 and "out.jsonl: %d trials" % len(TRIALS) in done.stdout
    done = invoke("db", "import", file[0], "--dsn", file[1])
    assert done.returncode == 0 and "%d already there" % len(TRIALS) in done.stdout
    done = invoke("db", "import", tmp_path / "no.jsonl")
    assert done.returncode == 2 and "no.jsonl" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def named(databases):
    """A store with trials whose names tests misspell, and a study of which none has begun."""
    with Store(databases()) as store:
        (first,) = record(store, trial(dataset="photos"))
        record(store, trial("SIN2(k0=0.01, k1=0.06, l=2000)", dataset="digits"))
        studies.add(store, "waiting", [Job("solver.prototxt")])
        studies.add(store, "first", [Job("solver.prototxt")])
        store.transaction(
            lambda cursor: cursor.execute(
                "UPDATE study_trial SET trial_id = %s"
                " WHERE study_id = (SELECT id FROM study WHERE name = 'first')",
                [first.id],
            )
        )
        yield store


@pytest.mark.parametrize(
    "filters, message",
    [
        ({"study": "frist"}, "the database has no study frist: did you mean first?"),
        (
            {"study": "xyz"},
            "the database has no study xyz: `lrbench study list` shows the existing studies",
        ),
        (
            {"study": "waiting"},
            "no trial of the study waiting has begun: `lrbench study run waiting` starts them",
        ),
        (
            {"dataset": "Photo", "study": "first"},
            "the database does not have trials on the dataset 'Photo': did you mean photos?",
        ),
        (
            {"dataset": "xyz"},
            "the database does not have trials on the dataset 'xyz': it has digits, photos",
        ),
        (
            {"network": "Nett"},
            "the database does not have trials of the network 'Nett': did you mean net?",
        ),
        (
            {"function": "sin2"},
            "the database does not have trials under the function 'sin2': did you mean SIN2?",
        ),
        (
            {"policy": "FIX(k0=0.02)"},
            "the database does not have trials under the policy 'FIX(k0=0.02)': did you mean "
            "FIX(k0=0.01)?",
        ),
        (
            {"state": "failed"},
            "the database does not have trials in the state 'failed': it has finished",
        ),
        (
            {"study": "first", "dataset": "digits", "state": None},
            "the database does not have trials of the study 'first' and on the dataset 'digits': "
            "leave out one of these filters",
        ),
    ],
)
def test_filters_that_select_nothing_are_refused_with_the_nearest_name(filters, message, named):
    with pytest.raises(InputError) as error:
        selection.check(named, filters)
    assert str(error.value) == message


def test_filters_that_select_something_are_accepted(named):
    for filters in ({}, {"study": "first"}, {"network": NETWORK.hash, "dataset": "photos"}):
        selection.check(named, filters)
    assert selection.remarks(named, {"dataset": "photos", "network": "net"}) == []
    assert len(selection.remarks(named, {"dataset": "photo", "network": "nets"})) == 2


def test_an_export_of_nothing_is_refused_and_does_not_touch_the_file(databases, named, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("a good export")
    with pytest.raises(InputError, match="no study frist"):
        exchange.export_trials(str(out), named._dsn, {"study": "frist"})
    empty = databases()
    for filters in ({}, {"network": "net"}):
        with pytest.raises(InputError, match="does not have any trials: train with"):
            exchange.export_trials(str(out), empty, filters)
    with pytest.raises(InputError, match="no study first: `lrbench study list`"):
        exchange.export_trials(str(out), empty, {"study": "first"})
    assert out.read_text() == "a good export" and os.listdir(str(tmp_path)) == ["out.jsonl"]


@pytest.mark.parametrize(
    "command", [("db", "export", "out"), ("report", "out"), ("rank",)], ids=lambda words: words[0]
)
def test_every_command_with_filters_refuses_those_that_select_nothing(
    command, named, lrbench, tmp_path
):
    (tmp_path / "out").write_text("good")
    done = lrbench(*command, "--network", "Nett", "--dsn", named._dsn, cwd=str(tmp_path))
    assert done.returncode == 2 and done.stderr.endswith("'Nett': did you mean net?\n")
    assert len(done.stderr.splitlines()) == 1 and (tmp_path / "out").read_text() == "good"


def test_an_export_to_standard_output_is_nothing_but_the_export(file, tmp_path):
    path = tmp_path / "out.jsonl"
    with open(str(path), "wb") as out:
        done = subprocess.run(
            command("db", "export", "/dev/stdout", "--dsn", file[1]),
            stdout=out,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=ROOT),
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "/dev/stdout: %d trials\n" % len(TRIALS))
    assert len(incoming.trials(str(path))) == len(TRIALS)


def command(*arguments):
    return [sys.executable, "-m", "lrbench_caffe", *arguments]


def run_into(output, arguments, buffered):
    """Run a command with a file as its standard output; return its status and its messages."""
    done = subprocess.run(
        command(*arguments),
        stdout=output,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=ROOT, PYTHONUNBUFFERED="" if buffered else "1"),
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "buffered, arguments",
    [(True, ["rank", "--format", "csv"]), (False, ["db", "export", "/dev/stdout"])],
)
def test_a_reader_that_has_closed_the_pipe_ends_a_command_quietly(buffered, arguments, file):
    reader, writer = os.pipe()
    os.close(reader)
    assert run_into(writer, [*arguments, "--dsn", file[1]], buffered) == (1, "")
    os.close(writer)


@pytest.mark.parametrize(
    "buffered, arguments", [(True, ["rank"]), (False, ["rank"]), (True, ["rank", "--help"])]
)
def test_a_full_disk_behind_standard_output_is_reported(buffered, arguments, file):
    dsn = [] if "--help" in arguments else ["--dsn", file[1]]
    with open("/dev/full", "wb") as full:
        status, messages = run_into(full, arguments + dsn, buffered)
    assert status == 1
    assert messages == "lrbench: cannot write the output (No space left on device)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_interrupted_leaves_nothing(number, file, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("a good export")
    with contextlib.closing(psycopg2.connect(file[1])) as connection:
        connection.cursor().execute("LOCK evaluation")  # the export waits for it with a file open
        export = start("db", "export", str(out), "--dsn", file[1])
        wait_until(lambda: len(os.listdir(str(tmp_path))) == 2 or export.poll() is not None)
        export.send_signal(number)
        connection.rollback()
    _, stderr = export.communicate()
    assert (export.returncode, stderr) == (130, "lrbench: interrupted\n")
    assert out.read_text() == "a good export" and os.listdir(str(tmp_path)) == ["out.jsonl"]
