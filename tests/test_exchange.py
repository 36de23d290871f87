"""Export and import: what goes out comes in elsewhere as it was, once, and a file that is not right changes nothing."""

import contextlib
import dataclasses
import gzip
import hashlib
import json

import pytest
from conftest import new_database_on
from trials import record, trial

from lrbench_caffe.errors import InputError

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, exchange


@pytest.fixture(scope="module")
def databases(dsn):
    """new(): the DSN of a new, empty database."""
    with contextlib.ExitStack() as made:
        yield lambda: made.enter_context(new_database_on(dsn))


def fill(dsn, *trials):
    with Store(dsn) as store:
        return record(store, *trials)


def stored(dsn, **filters):
    with Store(dsn) as store:
        return sorted(store.trials(**filters), key=lambda one: one.id)


def counts(dsn):
    with Store(dsn) as store, store.unrepeated() as cursor:
        found = []
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
            found += cursor.fetchone()
        return found


MANY = (
    dataclasses.replace(
        trial("SIN2(k0=0.01, k1=0.06, l=2000)"), started=1600000000.0
    ),  # the first in the file
    trial("NSTEP(k0=0.05, gamma=0.1, l=[100, 200])", seed=2),
    trial(dataset='a "name" <b>\'s</b>\\N'),
    trial(state="failed", top1=(), error="Check failed:\n\ttab \\ backslash \x1b[31mred\x1b[0m"),
    trial(state="running", top1=(0.1, 0.2)),
    trial(classes=None),
    trial(top1=tuple(n / 500 for n in range(450))),
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
    trial(classes=(0.5,) * 30000),
)


@pytest.fixture(scope="module")
def file(databases, tmp_path_factory):
    """(an export of MANY, the DSN of a database with them; tests leave both as they are)."""
    dsn = databases()
    fill(dsn, *MANY)
    path = str(tmp_path_factory.mktemp("export") / "out.jsonl")
    assert exchange.export_trials(path, dsn, {}, "a lab's") == len(MANY)
    return path, dsn


def test_what_goes_out_comes_in_as_it_was_with_its_origin(file, databases):
    path, source = file
    there = databases()
    assert exchange.import_trials(path, there) == (len(MANY), len(MANY), 0)
    assert stored(there) == [dataclasses.replace(one, origin="a lab's") for one in stored(source)]
    with Store(there) as store, store.unrepeated() as cursor:
        cursor.execute(
            "SELECT best_iteration, best_top1 FROM trial WHERE best_top1 > 0.89 AND best_top1 < 0.899"
        )
        assert cursor.fetchall() == [(44900, 0.898)]


def test_importing_again_changes_nothing(file, databases):
    path, source = file
    there = databases()
    exchange.import_trials(path, there)
    before = counts(there), stored(there)
    assert exchange.import_trials(path, there) == (len(MANY), 0, 0)
    assert (counts(there), stored(there)) == before
    before = counts(source), stored(source)
    assert exchange.import_trials(path, source) == (len(MANY), 0, 0)
    assert (counts(source), stored(source)) == before, (
        "and where the trials come from they stay at home"
    )


def test_datasets_networks_and_policies_are_merged_by_content(file, databases):
    path, _ = file
    there = databases()
    fill(there, trial("SIN2(k0=0.01, k1=0.06, l=2000)", seed=9))
    exchange.import_trials(path, there)
    origin, framework, network, dataset, task, policy, trials, _ = counts(there)
    assert (origin, framework, network, dataset, task, policy, trials) == (
        2,
        1,
        1,
        2,
        1,
        7,
        len(MANY) + 1,
    )


def test_a_third_database_still_knows_the_first_as_origin(file, databases, tmp_path):
    path, source = file
    second, third, on = databases(), databases(), str(tmp_path / "on.jsonl")
    exchange.import_trials(path, second)
    exchange.export_trials(on, second, {"dataset": "data"}, "the second")
    exchange.import_trials(on, third)
    assert {one.origin for one in stored(third)} == {"a lab's"}
    exchange.import_trials(on, source)
    assert {one.origin for one in stored(source)} == {None}


def test_a_trial_that_still_ran_is_brought_up_to_date(databases, tmp_path):
    source, there, path = databases(), databases(), str(tmp_path / "out.jsonl")
    (running,) = fill(source, trial(state="running", top1=(0.1, 0.2)))
    exchange.export_trials(path, source, {})
    exchange.import_trials(path, there)
    with Store(source) as store:
        store.add(running.id, trial(top1=[0.9] * 10).rows[9])
        store.end(running.id, "finished", 1700000900.0)
    exchange.export_trials(path, source, {})
    assert exchange.import_trials(path, there) == (1, 0, 1)
    (found,) = stored(there)
    assert found.state == "finished" and [row.iteration for row in found.rows] == [0, 100, 900]


def signed(lines):
    """A file's text from its lines but the last, with a right checksum: what a hostile hand would write."""
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
    """A way to change the first line of a kind."""

    def change(lines):
        n = next(n for n, line in enumerate(lines) if kind in line)
        lines[n] = {kind: dict(lines[n][kind], **values)} if values else lines[n]
        return n

    return change


def row(position, value):
    def change(lines):
        n = next(n for n, line in enumerate(lines) if "rows" in line)
        lines[n]["rows"][0][position] = value
        return n

    return change


def instead(kind, text):
    def change(lines):
        n = next(n for n, line in enumerate(lines) if kind in line)
        lines[n] = text + "\n"
        return n

    return change


HOSTILE = {
    "text for a number": (row(4, "0.5"), "no number"),
    "true for a number": (row(1, True), "no number"),
    "an accuracy above 1": (row(4, 1.5), "shares"),
    "a huge number": (row(9, 1e308), "range"),
    "no accuracy": (row(4, None), "shares"),
    "iterations beyond all": (row(0, 2**40), "iteration"),
    "confidences of text": (row(11, ["x"]), "class_confidence"),
    "a million-character name": (changed("dataset", name="x" * 10**6), "1000000 characters"),
    "no name": (changed("dataset", name=""), "0 characters"),
    "a NUL in a name": (changed("dataset", name="a\0b"), "no text"),
    "what commands a terminal": (changed("dataset", name="\x9b31m"), "no text"),
    "half a character": (changed("network", name="\ud800"), "no text"),
    "a number for a name": (changed("dataset", name=5), "no text"),
    "a shape of text": (changed("dataset", shape=["1; DROP TABLE trial"]), "shape"),
    "a batch of text": (changed("trial", solver={"batch_size": "sixty"}), "batch_size"),
    "no length": (changed("trial", solver={"max_iter": -5}), "max_iter"),
    "momentum of text": (changed("trial", solver={"momentum": "much"}), "momentum"),
    "SQL for a function": (
        changed("policy", text="'; DROP TABLE trial; --"),
        "cannot read the policy",
    ),
    "parameters of another policy": (
        changed("policy", parameters={"k0": 5}),
        "not those of its text",
    ),
    "another function than its text": (
        changed("policy", function="WARMUP then FIX"),
        "not those of its text",
    ),
    "a riddle for a parser": (
        changed("policy", text="FIX(k0=%s1)" % ("1+" * 300000)),
        "cannot read the policy",
    ),
    "a policy that leaves its quotes": (
        changed("policy", text='fixed(base_lr=0.1"\nx: 1)', function="fixed"),
        "cannot read the policy",
    ),
    "a confidence too small for the database": (row(11, [1e-300]), "class_confidence"),
    "true for a version": (changed("lrbench", version=True), "True"),
    "a number beyond all floats": (
        instead(
            "rows", '{"rows": [[0, 1e400, null, 1, 0, 0, null, null, null, null, null, null]]}'
        ),
        "range",
    ),
    "another network's hash": (changed("network", hash="0" * 64), "hash"),
    "a reference to nothing": (changed("trial", policy=99), "99"),
    "a reference of text": (changed("trial", network="1"), "network"),
    "a state of its own": (changed("trial", state="superb"), "superb"),
    "no UUID": (changed("trial", id="'; DROP TABLE trial; --"), "UUID"),
    "an end that cannot be": (changed("trial", state="finished", ended=None), "end"),
    "a nested solver": (changed("trial", solver={"a": {"b": 1}}), "solver"),
    "a huge seed": (changed("trial", seed=10**19), "seed"),
    "an unknown field": (changed("trial", more=1), "more"),
    "another version": (changed("lrbench", version=2), "version 2"),
    "a bomb of brackets": (instead("trial", '{"trial": ' + "[" * 100000), "nested"),
    "a number of a million digits": (
        instead("trial", '{"trial": %s}' % ("9" * 10**6)),
        "1000000 digits",
    ),
    "NaN": (instead("rows", '{"rows": [[NaN]]}'), "NaN"),
    "no JSON": (instead("rows", "DROP TABLE trial;"), "no JSON"),
    "a line of its own kind": (instead("rows", '{"exec": "rm"}'), "exec"),
    "no object": (instead("rows", "[1, 2]"), "one key"),
    "a line beyond all": (
        instead("rows", '{"rows": "%s"}' % ("x" * (5 << 20))),
        "longer than 4 MB",
    ),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_hostile_file_gets_its_line_and_changes_nothing(what, file, tmp_path):
    path, dsn = file
    change, words = HOSTILE[what]
    with open(path) as good:
        lines = [json.loads(line) for line in good][:-1]
    at = change(lines) + 1
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(signed(lines).encode("utf-8", "replace"))
    before = counts(dsn)
    with pytest.raises(InputError, match="line %d: " % at) as error:
        exchange.import_trials(str(bad), dsn)
    assert (
        words in str(error.value)
        and "nothing was imported" in str(error.value)
        and len(str(error.value)) < 700
    )
    assert counts(dsn) == before


def test_what_is_no_file_is_said(file, tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="cannot be read"):
            exchange.import_trials(str(path), file[1])
    with pytest.raises(InputError, match="line 1: it is longer"):
        exchange.import_trials("/dev/zero", file[1])


def test_html_and_sql_in_names_are_names(file, databases):
    path, _ = file
    there = databases()
    exchange.import_trials(path, there)
    assert len(stored(there, dataset='a "name" <b>\'s</b>\\N')) == 1


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[: len(data) // 2], "cut off|JSON"),
        (lambda data: data.replace(b'"top5"', b'"top5"').replace(b"0.9,", b"0.8,", 1), "checksum"),
        (lambda data: data + b"{}\n", "after the end"),
        (lambda data: b"", "cut off"),
        (lambda data: b"\xff\xfe" + data, "UTF-8"),
        (lambda data: data[data.index(b"\n") + 1 :], "no export"),
        (gzip.compress, "UTF-8"),
        (lambda data: bytes(1 << 20), "no JSON"),
    ],
)
def test_a_damaged_file_is_refused_whole(damage, words, file, databases, tmp_path):
    there = databases()
    bad = tmp_path / "bad.jsonl"
    with open(file[0], "rb") as good:
        bad.write_bytes(damage(good.read()))
    before = counts(there)
    with pytest.raises(InputError, match=words):
        exchange.import_trials(str(bad), there)
    assert counts(there) == before


def test_a_trial_twice_and_a_trial_of_another_policy_are_refused(file, databases, tmp_path):
    path, source = file
    with open(path) as good:
        lines = [json.loads(line) for line in good][:-1]
    trials = [n for n, line in enumerate(lines) if "trial" in line]
    twice = lines + [lines[trials[0]]]
    other = [dict(line) for line in lines]
    other[trials[0]] = {"trial": dict(lines[trials[0]]["trial"], seed=77)}
    for bad, words in (
        (twice, "line %d: .* twice" % len(twice)),
        (other, "line %d: .*already" % (trials[0] + 1)),
    ):
        (tmp_path / "bad.jsonl").write_text(signed(bad))
        with pytest.raises(InputError, match=words):
            exchange.import_trials(str(tmp_path / "bad.jsonl"), source)


def test_the_commands(file, lrbench, tmp_path):
    done = lrbench("db", "export", tmp_path / "none.jsonl", "--dataset", "no such")
    assert done.returncode == 0 and "0 trials" in done.stdout
    done = lrbench("db", "import", file[0], "--dsn", file[1])
    assert done.returncode == 0 and "%d already there" % len(MANY) in done.stdout
    done = lrbench("db", "import", tmp_path / "no.jsonl")
    assert done.returncode == 2 and "no.jsonl" in done.stderr and "Traceback" not in done.stderr
