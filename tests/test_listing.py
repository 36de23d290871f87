"""ls and show: what is there, what runs and what waits."""

import csv
import dataclasses
import io
import json
import os
import socket
import time
import uuid

import pytest
from conftest import needs_caffe
from studies import HELD_AT, MAX_ITER, start
from trials import record, trial
from waiting import wait_until

from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import RUNNING, Job

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import listing, studies
from lrbench_caffe.database.listing import Selection
from lrbench_caffe.display import listing as shown

SIN2 = "SIN2(k0=0.005, k1=0.08, l=100)"
HOUR = 3600


def with_id(entry, trial_id):
    return dataclasses.replace(entry, id=str(uuid.UUID(trial_id)))


def rows_of(printed):
    """The rows of a CSV."""
    assert printed.returncode == 0, printed.stderr
    return list(csv.DictReader(io.StringIO(printed.stdout)))


@pytest.fixture
def some_trials(store):
    """A failed, a running and two finished trials; the last one started last."""
    return record(
        store,
        trial(state="failed", error="Check failed: a < b", top1=(0.1,)),
        trial(SIN2, [0.1, 0.7], 2, state=RUNNING, solver={"max_iter": 400, "type": "SGD"}),
        trial(top1=[0.1, 0.8], seed=3),
        trial(SIN2, [0.1, 0.95, 0.9], seed=4, dataset="other"),
    )


def test_trials_are_listed_with_their_state_best_row_and_progress(store, some_trials):
    failed, running, finished, last = some_trials
    lines = listing.trials(store, Selection({}))
    assert [line.id for line in lines] == [last.id, finished.id, running.id, failed.id]
    table = shown.trials(lines)
    titles = [column.title for column in table.columns]
    by_id = {row[1]: dict(zip(titles, row)) for row in table.rows}
    assert by_id[running.id]["progress"] == "100/400 (25 %)"
    assert by_id[last.id]["progress"] == ""
    assert (by_id[last.id]["Top-1 %"], by_id[last.id]["at"]) == (0.95, 100)
    assert by_id[running.id]["Top-1 %"] == 0.7, "the best so far"
    assert by_id[last.id]["task"] == "net on other"
    assert by_id[finished.id]["id"] == finished.id[:8]


def test_an_id_has_as_many_digits_as_distinguish_it(store):
    ids = [digits.ljust(32, "0") for digits in ("123456789a0", "123456789a1", "123456789b")]
    record(store, *(with_id(trial(), trial_id) for trial_id in ids))
    short = {line.short_id for line in listing.trials(store, Selection({}))}
    assert short == {"12345678-9a0", "12345678-9a1", "12345678-9b"}
    for prefix in short:
        assert listing.find(store, prefix).startswith(prefix)
    assert listing.find(store, "123456789B").startswith("12345678-9b")
    with pytest.raises(InputError, match=r"several trials .* 12345678 \(12345678-9a00.*give more"):
        listing.find(store, "12345678")


@pytest.mark.parametrize(
    "chosen, expected",
    [
        ({"filters": {"policy": SIN2}}, {1, 3}),
        ({"filters": {"state": "failed"}}, {0}),
        ({"filters": {"policy": SIN2}, "since": 1700000003.5}, {3}),
        ({"filters": {}, "since": 1700000002.5}, {2, 3}),
        ({"filters": {}, "host": "host"}, {0, 1, 2, 3}),
        ({"filters": {}, "host": "elsewhere"}, set()),
    ],
)
def test_filters_select_trials(store, some_trials, chosen, expected):
    selection = Selection(**chosen)
    ids = {line.id for line in listing.trials(store, selection)}
    assert ids == {some_trials[n].id for n in expected}
    assert listing.count(store, selection) == len(expected)
    assert len(listing.trials(store, selection, limit=1)) == min(1, len(expected))
    selected = listing.tasks(store, selection)
    assert sum(task.trials for task in selected) == len(expected)


def test_the_best_of_a_task_is_not_the_top1_on_a_validation_set(store):
    solver = {"max_iter": 100}
    record(store, trial(SIN2, solver=dict(solver, select="validation", report="test")))
    (task,) = listing.tasks(store, Selection({}))
    assert (task.best, task.top1) == (SIN2, None)
    record(store, trial("FIX(k0=0.01)", (0.2,), solver=solver))
    (task,) = listing.tasks(store, Selection({}))
    assert (task.best, task.top1) == ("FIX(k0=0.01)", 0.2)


def test_tasks_have_their_best_policy(store, some_trials):
    last, first = listing.tasks(store, Selection({}))
    assert (last.dataset.name, last.best, last.top1) == ("other", SIN2, 0.95)
    assert (first.trials, first.finished, first.running, first.policies) == (3, 1, 1, 2)
    assert (first.best, first.top1) == ("FIX(k0=0.01)", 0.8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ls", "trials", "--since", "yesterday"], "--since: invalid time 'yesterday', expected"),
        (["ls", "trials", "--since", "5min"], "no trial of this host, or of this time, matches"),
        (["ls", "trials", "--policy", "FIX(k0=3.0)"], "does not have trials under the policy"),
        (["ls", "--format", "csv"], "for a single list: name one of tasks, studies, trials"),
        (["ls", "trials", "--columns", "polcy"], "unknown column 'polcy': did you mean policy?"),
        (["show", "frist"], "neither a study nor a trial 'frist': did you mean the study first?"),
        (["trial", "abcdef"], "neither a study nor a trial 'abcdef': `lrbench ls` lists"),
    ],
)
def test_what_cannot_be_listed_is_one_sentence(
    store, database, invoke, some_trials, arguments, message
):
    studies.add(store, "first", [Job("solver.prototxt")])
    done = invoke(*arguments, "--dsn", database)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_an_empty_database_is_listed_as_such(database, invoke):
    done = invoke("ls", "--dsn", database)
    assert done.returncode == 0 and "does not have any trials: train with" in done.stdout
    done = invoke("ls", "trials", "--format", "json", "--dsn", database)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_both_names_of_a_command_print_the_same(store, database, invoke, some_trials):
    for names in (("ls", "trials"), ("trials",)):
        rows = rows_of(invoke(*names, "--format", "csv", "--dsn", database))
        assert [row["id"] for row in rows] == [entry.id for entry in reversed(some_trials)]
        assert rows[-1]["error"] == "Check failed: a < b" and rows[2]["reached"] == "100"
    chosen = ("--columns", "seed,policy", "--sort", "-seed", "--limit", "2", "--format", "csv")
    assert invoke("trials", *chosen, "--dsn", database).stdout == (
        'seed,policy\n4,"%s"\n3,FIX(k0=0.01)\n' % SIN2
    )
    for name in ("show", "trial"):
        done = invoke(name, some_trials[0].id[:10], "--dsn", database)
        assert "state       failed\nreason      Check failed: a < b\n" in done.stdout


def test_a_trial_is_shown_whole(store, database, invoke, some_trials):
    entry = some_trials[3]
    done = invoke("show", entry.id, "--dsn", database)
    for line in (
        "best Top-1  95.00 % at iteration 100",
        "dataset     other@1x8x8/1000/400",
        "settings    max_iter=100 type=SGD",
        "took        1:36",
    ):
        assert line in done.stdout.splitlines()
    rows = rows_of(invoke("show", entry.id, "--format", "csv", "--dsn", database))
    assert [(row["iteration"], row["best"], row["top1"]) for row in rows] == [
        ("0", "False", "0.1"),
        ("100", "True", "0.95"),
        ("200", "False", "0.9"),
    ]
    whole = json.loads(invoke("show", entry.id, "--format", "json", "--dsn", database).stdout)
    assert whole["policy"] == SIN2 and len(whole["rows"]) == 3 and whole["study"] is None
    markdown = invoke("show", entry.id, "--format", "markdown", "--dsn", database).stdout
    assert "| policy | SIN2(k0=0.005, k1=0.08, l=100) |" in markdown and "| 95.00 |" in markdown


def test_a_row_shows_the_top1_on_the_other_sets(store):
    entry = trial()
    row = dataclasses.replace(
        entry.rows[1], measured_on="validation", other_sets={"test": {"top1": 0.7}}
    )
    entry = dataclasses.replace(entry, rows=(row,))
    table = shown.rows(entry)
    titles = [column.title for column in table.columns]
    assert table.rows[0][titles.index("Top-1 % (test)")] == 0.7
    assert table.title == "rows, measured on the set validation"


def test_trainings_that_wait_are_named_and_can_be_shown(store, database, invoke, some_trials):
    studies.add(store, "first", [Job("s.prototxt", policy=SIN2, seed=n) for n in (1, 2)])
    studies.add(store, "search", [Job("s.prototxt", policy=SIN2, max_iter=50, seed=1)])
    studies.set_command(store, "search", "lrbench tune s.prototxt --study search")
    studies.add_reasons(store, "search", {(SIN2, 50, 1): ("coarse", "a steep cycle")})
    done = invoke("ls", "trials", "--dsn", database)
    assert (
        "waiting: 2 trainings of the study first, which `lrbench study run first` st" in done.stdout
    )
    assert "1 training of the study search, which `lrbench tune s.prototxt --st" in done.stdout
    (entry,) = studies.jobs(store, "search")
    shown = invoke("show", entry.job.id[:8], "--dsn", database).stdout.splitlines()
    assert "state      waiting" in shown and "study      search, training 1" in shown
    assert "tried for  coarse: a steep cycle" in shown


def test_the_study_of_a_search_shows_length_and_reason(store, database, invoke):
    """The reasons are stored before the trainings, so an interrupted search shows them, too."""
    job = Job("s.prototxt", policy=SIN2, max_iter=100, seed=1)
    studies.add(store, "search", [job, dataclasses.replace(job, seed=2)])
    reasons = {(SIN2, 100, 1): ("coarse", 'a "steep" cycle, Größe')}
    for _ in range(2):  # a search that continues stores them again
        studies.add_reasons(store, "search", reasons)
    first, second = (entry.job.id for entry in studies.jobs(store, "search"))
    assert studies.reasons(store, "search") == {first: reasons[SIN2, 100, 1]}
    record(store, with_id(trial(SIN2), first), with_id(trial(SIN2, seed=2), second))
    done = invoke("study", "show", "search", "--dsn", database)
    (line,) = [line for line in done.stdout.splitlines() if "steep" in line]
    assert line.split()[-6:] == ["100", "coarse", "a", '"steep"', "cycle,", "Größe"]
    assert "length" in done.stdout and "why" in done.stdout
    rows = rows_of(invoke("study", "show", "search", "--dsn", database, "--format", "csv"))
    assert sorted(row["stage"] for row in rows) == ["", "coarse"]


@pytest.mark.parametrize(
    "seconds, text", [(-5, "now"), (59, "59 s ago"), (60, "1 min ago"), (90 * HOUR, "3 d ago")]
)
def test_an_age_is_short(seconds, text):
    assert shown.age(seconds) == text


def test_an_old_trial_has_a_date_instead_of_an_age(store):
    record(store, dataclasses.replace(trial(), started=time.time() - 2.5 * HOUR), trial())
    table = shown.trials(listing.trials(store, Selection({})))
    n = [column.title for column in table.columns].index("started")
    new, old = (table.columns[n].text(row[n]) for row in table.rows)
    assert new == "2 h ago" and old.startswith("2023-11-1")


@needs_caffe
def test_a_running_study_is_listed_and_not_deleted_and_a_killed_one_is_deleted_with_its_files(
    name, invoke, command, gate, kill, trials
):
    from lrbench_caffe.paths import study_folder

    study = start(*command(name, "--jobs", "1", gate=gate))
    gate.wait()
    wait_until(lambda: any(len(entry.rows) == 3 for entry in trials(name)))
    done = invoke("ls", "trials", "--study", name)
    (line,) = [line for line in done.stdout.splitlines() if "running" in line]
    assert "20/%d (%d %%)" % (MAX_ITER, 100 * 20 // MAX_ITER) in line and HELD_AT > 20
    assert "waiting for their turn: 3 trainings of the study %s" % name in done.stdout
    shown = invoke("study", "show", name).stdout
    assert "3 of 4 trials have not begun: they wait for their turn, the study is running" in shown
    (running,) = trials(name)
    for arguments, message in (
        (["study", "delete", name], "is running (lrbench on %s, p" % socket.gethostname()[:20]),
        (["db", "delete", "--study", name], "(%s on " % running.id[:8]),
        (["db", "delete", running.id[:8]], "nothing is deleted; end the program"),
    ):
        refused = invoke(*arguments, "--yes")
        assert refused.returncode == 2 and message in refused.stderr
    kill(study, gate)
    snapshots = os.path.join(study_folder(name), running.id)
    assert "snapshots     %s" % snapshots in invoke("show", running.id).stdout.splitlines()
    asked = invoke("study", "delete", name)
    assert asked.returncode == 2 and "nothing was deleted" in asked.stderr
    assert "the study %s, 1 trial with 3 rows, 3 trainings that wait" % name in asked.stdout
    assert invoke("study", "delete", name, "--yes").returncode == 0
    assert trials(name) == [] and not os.path.exists(study_folder(name))
    assert "0 events delivered" in invoke("db", "deliver").stdout
    assert "neither a study" in invoke("show", name).stderr
