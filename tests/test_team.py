"""A database that several people share: imports change nothing, roles, passwords, private files."""

import csv
import dataclasses
import itertools
import json
import os
import random
import stat
import subprocess
import time
from pathlib import Path

import pytest
from conftest import EMPTY, ROOT, administration, new_database_on
from test_exchange import fill, signed
from trials import record, trial

from lrbench_caffe import paths, ranking
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.policies import caffe_schedules
from lrbench_caffe.training import lr_policy

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)

from lrbench_caffe import database as databases
from lrbench_caffe.database import Store, exchange, names, origins, standings, studies
from lrbench_caffe.evaluator import prior, recommendation, tuner
from lrbench_caffe.evaluator.trainer import Trainer
from lrbench_caffe.report import content, page
from lrbench_caffe.study.cores import Cores

SIN = "SIN2(k0=0.01, k1=0.06, l=2000)"
OTHER = "11111111-2222-4333-8444-555555555555"
SETS = {"val": {"test_loss": 0.5, "top1": 0.5, "top5": 1, "ac": 0.9, "cd": 0, "cdac": 0, "ld": 0.1}}
HEADS = {"loss2": {"top1": 0.4, "top5": 0.9, "ac": None, "cd": None, "cdac": None}}


def full_trial():
    """A trial whose rows have a value in every column."""
    made = trial(SIN, blas="openblas", threads=1, error="why")
    rows = [dataclasses.replace(row, heads=HEADS, other_sets=SETS) for row in made.rows]
    return dataclasses.replace(made, rows=tuple(rows))


TRIALS = (
    full_trial(),
    trial(seed=2),
    trial(state="running", top1=(0.1,)),
    dataclasses.replace(
        trial(),
        policy="multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, 7])",
        function="multistep",
        parameters={"base_lr": 0.1, "gamma": 1.5, "stepvalue": [5, 7]},
        n_params=4,
    ),
)


def exported(dsn, path):
    """The lines of an export of a whole database, without the last one."""
    exchange.export_trials(str(path), dsn, {}, "a lab")
    return [json.loads(line) for line in Path(path).read_text().splitlines()][:-1]


def imported(dsn, path, lines, **options):
    """The result of importing these lines with the right checksum."""
    path.write_bytes(signed(lines).encode("utf-8", "replace"))
    return exchange.import_trials(str(path), dsn, **options)


def contents(dsn):
    """Everything that a ranking is made of."""
    with Store(dsn) as store:
        return [
            store.select("SELECT * FROM %s AS line ORDER BY line::text" % table)
            for table in ("trial", "evaluation", "standing")
        ]


HOSTILE_VALUES = (
    None, True, -1, 0, 1, 2**31, 2**70, 0.5, -0.5, 1e307, 1e39, "", "x", "\0", [], [1e307], {},
    {"a": 1e307}, OTHER, 4e9,
)  # fmt: skip


def leaves(value, path=()):
    """The paths to every field and item of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from leaves(item, (*path, key))


def mutations(lines):
    """Every line with every field replaced by every hostile value: (line, path, value)."""
    return [
        (n, path, value)
        for n, line in enumerate(lines)
        for path in leaves(line)
        for value in HOSTILE_VALUES
    ]


def mutated(lines, n, path, value):
    changed = json.loads(json.dumps(lines))
    place = changed[n]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_no_mutated_export_changes_or_adds_to_what_was_trained_here(database, tmp_path, count):
    fill(database, *TRIALS)
    lines = exported(database, tmp_path / "good.jsonl")
    before = contents(database)
    possible = mutations(lines)
    random.Random(0).shuffle(possible)
    refused = 0
    for mutation in possible[:count]:
        try:
            result = imported(database, tmp_path / "bad.jsonl", mutated(lines, *mutation))
        except InputError as error:
            refused += 1
            assert "nothing was imported" in str(error) and len(str(error)) < 1000, mutation
        else:
            assert result == (len(TRIALS), 0, 0), mutation
        assert contents(database) == before, mutation
    assert refused > min(count, len(possible)) / 2


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.long)])
def test_a_mutated_export_that_is_accepted_can_be_ranked_and_reported(database, tmp_path, count):
    with Store(database) as store:
        record(store, *TRIALS)
        lines = exported(database, tmp_path / "good.jsonl")
        store.transaction(lambda cursor: cursor.execute("TRUNCATE trial CASCADE"))
        next(line for line in lines if "origin" in line)["origin"]["database"] = OTHER
        numbers = [item for item in mutations(lines) if type(item[2]) in (int, float)]
        random.Random(1).shuffle(numbers)
        for mutation in numbers[:count]:
            try:
                imported(database, tmp_path / "bad.jsonl", mutated(lines, *mutation))
            except InputError:
                continue
            for by in ("top1", "ld,iterations", "top1=1,ld=2,n_params=1", "pareto:top1,cdac"):
                criterion = ranking.parse_criterion(by)
                page.as_json(content.load(store, {}, criterion))
            store.transaction(lambda cursor: cursor.execute("TRUNCATE trial CASCADE"))


@pytest.mark.parametrize(
    "kind, values, message",
    [
        ("trial", {"started": 4e9, "ended": 4e9}, "in the future"),
        ("trial", {"ended": 1.0}, "before it started"),
        ("rows", {(0, 1): -0.1}, "lr=-0.1"),
        ("rows", {(0, 3): 1e307}, "out of range"),
        ("rows", {(1, 0): 101}, "at most 100"),
        ("rows", {(0, 11): [0.5]}, "1 values for 3 classes"),
        ("rows", {(1, 9): 0.2}, "ld=0.2 is not the difference"),
        ("rows", {(0, 5): 0.1}, "above top5"),
        ("policy", {"n_params": 7}, "do not match its text"),
        ("policy", {"text": 'fixed(base_lr=0.1, net="x")', "function": "fixed"}, "cannot read"),
        ("policy", {"text": "fixed(net=1)", "function": "fixed"}, "cannot read"),
    ],
)
def test_impossible_values_are_refused(database, tmp_path, kind, values, message):
    fill(database, trial(SIN))
    lines = exported(database, tmp_path / "good.jsonl")
    line = next(line for line in lines if kind in line)
    for field, value in values.items():
        if kind == "rows":
            line[kind][field[0]][field[1]] = value
        else:
            line[kind][field] = value
    with pytest.raises(InputError, match=message):
        imported(database, tmp_path / "bad.jsonl", lines)


@pytest.fixture
def attacked(dsn, tmp_path):
    """A database with a trial of its own and a later, better one for its seed from elsewhere."""
    own = trial(SIN, top1=(0.1, 0.6))
    other = dataclasses.replace(trial(SIN, top1=(0.1, 0.99)), started=own.started + 50)
    with new_database_on(dsn) as there, new_database_on(dsn) as here:
        fill(here, own)
        fill(there, other, trial("FIX(k0=0.01)", top1=(0.1, 0.7)))
        lines = exported(there, tmp_path / "there.jsonl")
        assert imported(here, tmp_path / "in.jsonl", lines) == (2, 2, 0)
        yield here, own


def test_a_trial_of_this_database_counts_before_an_imported_one(attacked):
    here, own = attacked
    with Store(here) as store:
        (sin,) = (e for e in ranking.rank(store.results()) if e.policy == SIN)
        assert [trial.id for trial in sin.trials] == [own.id]
        assert store.select("SELECT top1 FROM standing WHERE k0 IS NULL") == [(0.6,)]
        by_sql = "SELECT * FROM standing_of_trials AS s ORDER BY s::text"
        assert store.select(by_sql) == store.select(
            by_sql.replace("standing_of_trials", "standing")
        )


def test_origins_can_be_selected_left_out_and_deleted(attacked, invoke):
    here, own = attacked
    with Store(here) as store:
        assert [line[1:] for line in origins.summaries(store)][1:] == [("a lab", False, 2)]
        (there,) = (line.uuid for line in origins.summaries(store) if not line.here)
        assert [trial.id for trial in store.trials(origin=names.LOCAL)] == [own.id]
        assert [trial.id for trial in store.trials(origin=store.identity)] == [own.id]
        for name in ("a lab", there):
            assert {trial.origin for trial in store.results(origin=name)} == {"a lab"}
        query = recommendation.query_by_names(store, "data", "net")
        for origin, top1 in ((names.LOCAL, [0.6]), (there, [0.99, 0.7])):
            best = recommendation.recommend(standings.OfOrigin(store, origin), query).tasks[0]
            assert [policy.top1.mean for policy in best.policies] == top1
            assert [policy.seeds for policy in best.policies] == [(1,)] * len(top1)
    for command in (["rank"], ["recommend", "--dataset", "data", "--network", "net"]):
        done = invoke(*command, "--local", "--dsn", here)
        assert done.returncode == 0 and "60.00" in done.stdout and "70.00" not in done.stdout
        done = invoke(*command, "--origin", "a lab", "--dsn", here)
        assert done.returncode == 0 and "99.00" in done.stdout and "60.00" not in done.stdout
    assert invoke("rank", "--local", "--origin", "a lab").returncode == 2
    unknown = invoke("rank", "--origin", "a lap", "--dsn", here)
    assert unknown.returncode == 2 and "did you mean a lab" in unknown.stderr
    assert "a lab" in invoke("db", "origins", "--dsn", here).stdout
    delete = ["db", "delete", "--origin", "a lab", "--yes", "--dsn", here]
    assert "deleted: 2 trials with 4 rows" in invoke(*delete).stdout
    with Store(here) as store:
        assert [trial.id for trial in store.trials()] == [own.id]
        assert [line.here for line in origins.summaries(store)] == [True]
    again = invoke(*delete)
    assert again.returncode == 2 and "nothing was imported into it" in again.stderr


def test_the_trials_of_two_origins_with_one_name_are_deleted_by_their_uuids(dsn, invoke, tmp_path):
    with new_database_on(dsn) as here:
        for _ in range(2):
            with new_database_on(dsn) as there:
                fill(there, trial(seed=1), trial(seed=2))
                imported(here, tmp_path / "in.jsonl", exported(there, tmp_path / "out.jsonl"))
        with Store(here) as store:
            uuids = [line.uuid for line in origins.summaries(store) if not line.here]
        delete = ["db", "delete", "--yes", "--dsn", here, "--origin"]
        refused = invoke(*delete, "a lab")
        assert refused.returncode == 2 and "2 origins have the name 'a lab'" in refused.stderr
        assert all(uuid in refused.stderr for uuid in uuids)
        with Store(here) as store:
            first = store.trials(origin=uuids[0])[0].id
        for selected, left in (([uuids[0], first], 2), ([uuids[0]], 1)):
            assert invoke(*delete, *selected).returncode == 0
            with Store(here) as store:
                assert [line.here for line in origins.summaries(store)].count(False) == left
                assert len(store.trials()) == left + 1


def test_a_search_starts_from_the_results_of_the_selected_origin(attacked):
    """Trainings that diverge at once end a search behind its first step, the prior."""
    here, own = attacked
    setup = dataclasses.replace(
        own.setup, solver=dict(own.setup.solver, test_interval=50, batch_size=50)
    )

    def train(job, stop, on_event, threads):
        begun = dataclasses.replace(trial(job.policy, (), state="running"), id=job.id, setup=setup)
        on_event("begin", begun)
        on_event("end", begun.ended_as("diverged", time.time(), "too large a rate"))

    def search(study, origin):
        trainer = Trainer(
            __file__, Cores(1, train=train), "tune", study, dsn=here, describe=lambda job: own_task
        )
        trainer.budget = 2 * trainer.max_iter
        with pytest.raises(InputError) as error:
            tuner.tune(trainer, origin=origin)
        return str(error.value)

    def recorded(study):
        with Store(here) as store:
            content = studies.initial_information(store, study, {})
        return prior.Prior.from_json(content)

    own_task = dataclasses.replace(own, setup=setup)
    for study, origin, top1s in (
        ("all", None, (0.7, 0.6)),
        ("own", names.LOCAL, (0.6,)),
        ("theirs", "a lab", (0.99, 0.7)),
    ):
        assert "does not learn with any of the constant rates" in search(study, origin)
        assert recorded(study).top1s == top1s
    error = search("own", None)
    assert "the prior results of this database, not of all databases: start another" in error
    assert search("new", "a lap").endswith("did you mean a lab?")
    with Store(here) as store:
        store.transaction(
            lambda cursor: cursor.execute("DELETE FROM trial WHERE id = %s", [own.id])
        )
    search("new", names.LOCAL)
    assert recorded("new").sentence.endswith("among those that --local or --origin selects")


def test_a_file_cannot_add_a_trial_that_was_trained_here(database, tmp_path):
    fill(database, trial())
    lines = exported(database, tmp_path / "good.jsonl")
    next(line for line in lines if "trial" in line)["trial"]["id"] = OTHER
    before = contents(database)
    with pytest.raises(InputError, match="its origin is this database.*--restore"):
        imported(database, tmp_path / "bad.jsonl", lines)
    assert contents(database) == before


def test_own_trials_come_back_unchanged_and_a_backup_restores_them(database, tmp_path):
    (own,) = fill(database, trial())
    lines = exported(database, tmp_path / "backup.jsonl")
    before, notes = contents(database), []
    assert imported(database, tmp_path / "in.jsonl", lines, on_note=notes.append) == (1, 0, 0)
    assert contents(database) == before and not notes
    next(line for line in lines if "rows" in line)["rows"][1][4] = 0.95
    assert imported(database, tmp_path / "in.jsonl", lines, on_note=notes.append) == (1, 0, 0)
    assert contents(database) == before and "1 trial differs from the file" in notes[0]
    with Store(database) as store:
        store.transaction(lambda cursor: cursor.execute("DELETE FROM trial"))
        backup = str(tmp_path / "backup.jsonl")
        assert exchange.import_trials(backup, database, restore=True) == (1, 1, 0)
        assert store.trials() == [own]


@pytest.mark.parametrize("change", ["origin", "row", "start"])
def test_a_running_trial_is_continued_only_by_its_origin_and_unchanged(dsn, tmp_path, change):
    with new_database_on(dsn) as there, new_database_on(dsn) as here:
        (running,) = fill(there, trial(state="running", top1=(0.1,)))
        imported(here, tmp_path / "in.jsonl", exported(there, tmp_path / "first.jsonl"))
        with Store(there) as store:
            store.add(running.id, trial().rows[1])
            store.end(running.id, "finished", time.time())
        lines = exported(there, tmp_path / "second.jsonl")
        bad = json.loads(json.dumps(lines))
        find = {kind: line[kind] for line in bad for kind in line}
        if change == "origin":
            find["origin"]["database"] = OTHER
        elif change == "row":
            find["rows"][0][4] = 0.2
        else:
            find["trial"]["started"] += 1
        before = contents(here)
        assert imported(here, tmp_path / "in.jsonl", bad) == (1, 0, 0)
        assert contents(here) == before
        assert imported(here, tmp_path / "in.jsonl", lines) == (1, 0, 1)


def test_values_that_overflow_when_squared_do_not_end_a_ranking(store):
    """Imports of earlier versions can have them."""
    for seed, loss in ((1, 1e307), (2, -1e307)):
        made = trial(seed=seed)
        rows = [dataclasses.replace(row, ld=abs(loss), test_loss=loss) for row in made.rows]
        record(store, dataclasses.replace(made, rows=tuple(rows)))
    for by in ("top1", "ld", "ld=1,top1=2", "pareto:ld,top1"):
        page.as_json(content.load(store, {}, ranking.parse_criterion(by)))


def test_lines_to_paste_have_fields_of_the_schedule_only():
    schedule = "step(base_lr=0.1, gamma=1.5, stepsize=20)"
    assert page.prototxt_lines(schedule) == (
        'lr_policy: "step"\nbase_lr: 0.1\ngamma: 1.5\nstepsize: 20'
    )
    for text in (
        'fixed(base_lr=0.1, net="other")',
        "fixed(base_lr=0.1, snapshot_prefix=x)",
        "fixed(base_lr=0.1\nnet: 1)",
        "fixed(base_lr=1e39)",
        "fixed(base_lr=-1)",
        "fixed(base_lr=0.1, base_lr=0.2)",
        "multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, x])",
        'FIX(k0=0.1)"\nnet: "x',
    ):
        assert page.prototxt_lines(text).startswith("#") and "\n" not in page.prototxt_lines(text)


def test_the_schedules_of_caffe_are_those_that_training_records():
    fields = {name: tuple(of.values()) for name, (_, of) in lr_policy._BY_LR_POLICY.items()}
    assert fields == caffe_schedules.FIELDS
    for function, names_of_fields in fields.items():
        values = {name: (5, 7) if name == "stepvalue" else 5 for name in names_of_fields}
        text = str(lr_policy.CaffePolicy(function, values))
        assert caffe_schedules.parse(text) is not None


def test_a_page_draws_the_best_and_says_what_it_leaves_out(store, monkeypatch):
    record(store, *(trial("FIX(k0=%s)" % k0, seed=1, top1=(0, k0)) for k0 in (0.1, 0.2, 0.3, 0.4)))
    monkeypatch.setattr(content, "MAX_LISTED", 2)
    monkeypatch.setattr(content, "MAX_RUNS", 1)
    (task,) = content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]
    assert [policy["policy"] for policy in task["policies"]] == ["FIX(k0=0.4)", "FIX(k0=0.3)"]
    assert task["left_out"] == "This page has 2 of 4 policies, the best ones."
    record(store, trial(dataset="second"))
    monkeypatch.setattr(content, "MAX_TASKS", 1)
    loaded = content.load(store, {}, ranking.parse_criterion("top1"))
    assert [task["dataset"] for task in loaded["tasks"]] == ["data"]
    assert loaded["left_out"].startswith("This page has 1 of 2 tasks")


def test_rank_lists_the_best_and_says_how_many_there_are(database, invoke):
    fill(database, *(trial("FIX(k0=%s)" % k0, top1=(0, k0)) for k0 in (0.1, 0.2, 0.3)))
    done = invoke("rank", "--limit", 2, "--dsn", database)
    assert "FIX(k0=0.2)" in done.stdout and "FIX(k0=0.1)" not in done.stdout
    assert "1 more row; --limit sets how many are printed" in done.stdout
    assert "more rows" not in invoke("rank", "--dsn", database).stdout


def test_results_are_the_trials_with_their_best_rows(store):
    record(store, *TRIALS, trial(top1=()), trial(state="diverged", seed=5, error="nan"))
    whole, results = store.trials(), store.results()
    assert [t.id for t in results] == [t.id for t in whole]
    assert [t.summary for t in results] == [t.summary for t in whole]
    rowless = [dataclasses.replace(trial, rows=()) for trial in whole]
    assert [dataclasses.replace(trial, rows=()) for trial in results] == rowless


@pytest.mark.parametrize("by", ["top1", "ld,top1", "top1=3,cdac=1", "pareto:top1,ac"])
def test_the_first_rows_of_a_ranking_are_those_of_the_whole_one(store, database, invoke, by):
    """For the first rows, less is read of the other trials; two sets, heads and states differ."""
    sets = {"test": dict.fromkeys(("top1", "top5", "ac", "cd", "cdac", "ld"), 0.25)}
    record(store, *TRIALS, trial(top1=()), trial(state="diverged", seed=5, error="nan"))
    record(store, trial(state="running", seed=6), trial("FIX(k0=0.5)", top1=(0.1, 0.6), seed=7))
    chosen = trial("FIX(k0=0.7)", solver={"select": "validation", "report": "test"}, seed=8)
    rows = [
        dataclasses.replace(row, measured_on="validation", other_sets=sets) for row in chosen.rows
    ]
    record(store, dataclasses.replace(chosen, rows=tuple(rows)))
    arguments = ("rank", "--by", by, "--format", "csv", "--dsn", database)
    whole, first = (
        list(csv.DictReader(invoke(*arguments, *more).stdout.splitlines()))
        for more in ((), ("--limit", 2))
    )
    blocks = [list(rows) for _, rows in itertools.groupby(whole, lambda row: row["settings"])]
    assert first == [row for block in blocks for row in block[:2]]
    assert len(blocks) > 1 and len(first) < len(whole)
    filtered = invoke(*arguments, "--limit", 2, "--policy", "FIX(k0=0.5)")
    assert filtered.stdout.count("\n") == 2 and "FIX(k0=0.5)" in filtered.stdout


def test_a_password_is_not_on_the_command_line_of_psql(invoke, monkeypatch):
    for dsn in ("postgresql://ann:s3cret@host/results", "host=host user=ann password=s3cret"):
        assert "s3cret" not in " ".join(databases.shell_command(dsn))
        assert databases.shell_environment(dsn) == {"PGPASSWORD": "s3cret"}
    assert databases.shell_environment("host=host") == {}
    wrong = invoke("rank", "--dsn", "postgresql://ann:s3cret@127.0.0.1:1/results")
    assert "read the password in --dsn" in wrong.stderr and "s3cret" not in wrong.stderr
    monkeypatch.setenv("LRBENCH_DSN", "postgresql://ann:s3cret@127.0.0.1:1/results")
    assert "read the password" not in invoke("rank").stderr


def mode(path):
    return stat.S_IMODE(os.stat(str(path)).st_mode)


def test_folders_of_the_home_are_private(tmp_path, monkeypatch):
    home = tmp_path / "existing"
    (home / "journal").mkdir(parents=True)
    home.chmod(0o755)
    (home / "journal").chmod(0o777)
    monkeypatch.setenv("LRBENCH_HOME", str(home))
    paths.make_private(str(home / "journal"))
    paths.make_private(str(home / "studies" / "a" / "b"))
    assert mode(home) == 0o755, "it may have other files"
    for folder in ("journal", "studies", "studies/a", "studies/a/b"):
        assert mode(home / folder) == 0o700
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "new"))
    paths.make_private(paths.home() + "/journal")
    assert mode(tmp_path / "new") == 0o700
    (tmp_path / "new" / "file").write_text("")
    with pytest.raises(FileExistsError):
        paths.make_private(paths.home() + "/file")


def test_a_journal_is_private(database, tmp_path, monkeypatch):
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "home"))
    with databases.Recorder(database) as recorder:
        recorder.journal().on_event("begin", trial(state="running", top1=()))
        (journal,) = (tmp_path / "home" / "journal").glob("*.jsonl")
        assert (mode(journal.parent), mode(journal)) == (0o700, 0o600)


ROLES = ("lrbench_owner", "lrbench_reader", "lrbench_writer", "ann", "rob")


@pytest.fixture
def shared_server(dsn):
    """A database with the roles of docs/team.md: connect(user) returns its DSN for a user."""
    page_text = Path(ROOT, "docs", "team.md").read_text()
    blocks = [part.split("```")[0] for part in page_text.split("```psql\n")[1:]]
    create, grant, person = blocks
    with new_database_on(dsn, EMPTY) as database, administration(dsn) as server:
        name = database.split("dbname=")[-1]
        for statement in _statements(create.split("\\connect")[0]):
            if not statement.startswith("CREATE DATABASE"):
                server.execute(statement.replace("DATABASE results", "DATABASE " + name))
        server.execute("ALTER DATABASE %s OWNER TO lrbench_owner" % name)
        with administration(database) as cursor:
            for statement in _statements(create.split("\\connect results")[1]):
                cursor.execute(statement)
        Store(database + " user=lrbench_owner").close()
        with administration(database + " user=lrbench_owner") as cursor:
            for statement in _statements(grant):
                cursor.execute(statement)
        server.execute(person.split(";")[0])
        server.execute("CREATE ROLE rob LOGIN IN ROLE lrbench_reader")
        try:
            yield lambda user: "%s user=%s" % (database, user)
        finally:
            with administration(database) as cursor:
                for role in ROLES:
                    cursor.execute("DROP OWNED BY %s CASCADE" % role)
            server.execute("ALTER DATABASE %s OWNER TO CURRENT_USER" % name)
            server.execute("DROP ROLE " + ", ".join(ROLES))


def _statements(sql):
    return [statement.strip() for statement in sql.split(";") if statement.strip()]


def test_the_roles_of_the_documentation_may_do_what_it_says_and_no_more(
    shared_server, invoke, tmp_path
):
    writer, reader, owner = map(shared_server, ("ann", "rob", "lrbench_owner"))
    with Store(writer) as store:
        store.require_writing()
        record(store, trial(SIN), trial())
        record(store, dataclasses.replace(trial(seed=3), attempt=2))
        studies.add(store, "study", [databases.studies.Job("s.prototxt")])
        claim = studies.Claim("study", writer, lambda: None, lambda note: None)
        claim._store.close()
    for user in (reader, writer, owner):
        for command in (["rank"], ["study", "list"], ["report", tmp_path / "r.html"]):
            done = invoke(*command, "--dsn", user)
            assert done.returncode == 0, done.stderr
        done = invoke("recommend", "--dataset", "data", "--network", "net", "--dsn", user)
        assert done.returncode == 0, done.stderr
        done = invoke("db", "export", tmp_path / "out.jsonl", "--dsn", user)
        assert done.returncode == 0, done.stderr
    with Store(reader) as store:
        assert "lacks rights" in store.writing_problem()
    forbidden = {
        reader: ["INSERT INTO task (classes) VALUES (7)", "UPDATE trial SET host = ''"],
        writer: ["DELETE FROM trial", "DELETE FROM study", "INSERT INTO origin (name) VALUES ('')"],
    }
    for user, statements in forbidden.items():
        for statement in [*statements, "CREATE TABLE mine (x int)", "DROP TABLE trial CASCADE"]:
            with Store(user) as store, pytest.raises(DatabaseUnavailable):
                store.transaction(lambda cursor, sql=statement: cursor.execute(sql))
    lines = exported(owner, tmp_path / "out.jsonl")
    next(line for line in lines if "origin" in line)["origin"]["database"] = OTHER
    for number, line in enumerate(line for line in lines if "trial" in line):
        line["trial"]["id"] = OTHER[:-1] + str(number)
    for user in (reader, writer):
        with pytest.raises(InputError, match="does not allow"):
            imported(user, tmp_path / "in.jsonl", lines)
    assert imported(owner, tmp_path / "in.jsonl", lines) == (3, 3, 0)


def test_a_signed_export_is_verified_by_ssh_keygen(database, tmp_path):
    fill(database, trial())
    file, key = tmp_path / "out.jsonl", tmp_path / "key"
    exported(database, file)

    def ssh_keygen(*arguments, **options):
        return subprocess.run(["ssh-keygen", *map(str, arguments)], stdout=-1, stderr=-1, **options)

    try:
        made = ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    except FileNotFoundError:
        pytest.skip("needs ssh-keygen")
    assert made.returncode == 0
    ssh_keygen("-Y", "sign", "-f", key, "-n", "lrbench", file)
    trusted = tmp_path / "trusted"
    trusted.write_text("ann@example.org " + Path(str(key) + ".pub").read_text())

    def verified():
        signature = ("-s", str(file) + ".sig")
        who = ("-f", trusted, "-I", "ann@example.org", "-n", "lrbench")
        with open(str(file), "rb") as content_of_file:
            return ssh_keygen("-Y", "verify", *who, *signature, stdin=content_of_file).returncode

    assert verified() == 0
    file.write_bytes(file.read_bytes() + b"\n")
    assert verified() != 0
