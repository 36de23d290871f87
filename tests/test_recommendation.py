"""Recommendation: the best known policies for a task or for what is like it; and how policies stand, kept with every trial."""

import dataclasses
import hashlib
import json
import os
import threading

import pytest
from conftest import needs_caffe, new_database_on
from studies import DIGITS
from trials import NETWORK, record, trial

from lrbench_caffe import ranking
from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import Dataset, Network

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, exchange, schema
from lrbench_caffe.evaluator import recommendation
from lrbench_caffe.evaluator.recommendation import Query, query_by_names, recommend

GOOD, FAIR = "SIN2(k0=0.01, k1=0.06, l=2000)", "FIX(k0=0.02)"


def network(name, *kinds):
    text = "".join('layer {\n  type: "%s"\n}\n' % kind for kind in kinds)
    return Network(name, hashlib.sha256(text.encode()).hexdigest(), text)


CNN, CNN2, MLP = (
    network("cnn", "Convolution", "Pooling", "InnerProduct"),
    network("cnn2", "Convolution", "InnerProduct"),
    network("mlp", "TanH"),
)


def on(dataset, one, **changes):
    """The trial on a dataset of that shape and size."""
    setup = dataclasses.replace(
        one.setup, dataset=Dataset(one.setup.dataset.name, *dataset), **changes
    )
    return dataclasses.replace(one, setup=setup)


def standings(store):
    """(what is kept, what the trials say), each as sorted texts."""
    query = "SELECT (s.dataset_id, s.network_id, s.task_id, s.policy_id, settings, k0, seeds, top1, top1_std, iterations)::text FROM %s s"
    return [
        sorted(
            line[0]
            for line in store.transaction(
                lambda cursor: cursor.execute(query % source) or cursor.fetchall()
            )
        )
        for source in ("standing", "standing_of_trials")
    ]


def check(store, count):
    kept, reckoned = standings(store)
    assert kept == reckoned and len(kept) == count


def execute(store, statement):
    store.transaction(lambda cursor: cursor.execute(statement))


def policies(found):
    return [standing.policy for standing in found.known[0].policies]


def test_the_best_policies_of_a_known_task_over_their_seeds(store):
    record(
        store,
        trial(GOOD, [0.1, 0.98]),
        trial(GOOD, [0.1, 0.96], seed=2),
        trial(FAIR, [0.1, 0.975]),
        trial("FIX(k0=0.001)", [0.5]),
        trial(GOOD, [0.99], dataset="other"),
        trial("FIX(k0=1)", [0.99], state="failed", error="x"),
    )
    found = recommend(store, query_by_names(store, "data", "net"), many=2)
    assert found.same and found.known[0].share == 1 and policies(found) == [FAIR, GOOD]
    best = found.known[0].policies[1]
    assert (
        best.top1 == (pytest.approx(0.97), pytest.approx(0.01414, abs=1e-4), 2)
        and best.iterations == 100
    )
    assert best.settings == {"max_iter": 100, "type": "SGD"} and found.known[0].rates == (
        0.01,
        0.06,
    )


def test_a_network_goes_by_its_name_or_its_hash(store):
    record(
        store, trial(GOOD, network=CNN), trial(FAIR, network=dataclasses.replace(CNN2, name="cnn"))
    )
    assert len(recommend(store, query_by_names(store, "data", "cnn")).known) == 2
    assert policies(recommend(store, query_by_names(store, "data", CNN2.hash))) == [FAIR]


def test_ranges_to_start_from_are_those_of_constant_rates(store):
    record(
        store,
        *(
            trial("FIX(k0=%g)" % k0, [0.1, top1])
            for k0, top1 in ((0.0001, 0.4), (0.001, 0.9), (0.01, 0.92), (0.1, 0.5))
        ),
    )
    good = recommend(store, query_by_names(store, "data", "net")).known[0].good
    assert (good.low, good.high, good.best) == (0.001, 0.01, 0.01)


def test_a_good_range_is_that_of_the_longer_trainings_where_they_tried_enough_rates(store):
    def constants(max_iter, best, count):
        for n in range(count):
            one = trial("FIX(k0=%g)" % (0.001 * 2**n), [0.1, 0.99 if 0.001 * 2**n == best else 0.5])
            yield dataclasses.replace(
                one,
                setup=dataclasses.replace(
                    one.setup, solver=dict(one.setup.solver, max_iter=max_iter)
                ),
            )

    record(store, *constants(10, 0.064, 9), *constants(200, 0.004, 5), *constants(1000, 0.001, 3))
    assert recommend(store, query_by_names(store, "data", "net")).known[0].good.best == 0.004


def test_similar_tasks_are_ordered_and_explained(store):
    big, small = ((3, 32, 32), 50000, 10000), ((1, 8, 8), 1000, 400)
    record(
        store,
        on(big, trial(GOOD, dataset="photos", network=CNN)),
        on(small, trial(FAIR, dataset="digits", network=MLP)),
    )
    wanted = Query(
        Dataset("pictures", (3, 28, 28), 60000, 10000), CNN2, 3, {"type": "Adam", "batch_size": 64}
    )
    found = recommend(store, wanted)
    assert not found.same and [known.task.dataset.name for known in found.known] == [
        "photos",
        "digits",
    ]
    assert found.known[0].share > 0.7 > 0.4 > found.known[1].share
    first, second = recommendation.explanations(found)
    assert (
        "cnn on photos is" in first[0]
        and "input 3x32x32 where yours has 3x28x28" in first[0]
        and "3 classes, as yours" in first[0]
    )
    assert (
        "50000 training samples where yours has 60000" in first[0]
        and "2 of its 3 layers are of the same kinds as your 2" in first[0]
    )
    assert "SGD where yours has Adam" in first[0] and "0 of its 1 layers" in second[0]


def test_a_known_dataset_with_another_network_is_like_it_by_its_data(store):
    record(store, trial(GOOD, network=CNN))
    (known,) = recommend(store, query_by_names(store, "data", "never seen")).known
    assert [(found.name, found.share) for found in known.likenesses] == [
        ("input", 1),
        ("classes", 1),
        ("samples", 1),
        ("network", 0),
    ]


def test_what_nothing_is_known_of_is_said(store):
    with pytest.raises(InputError, match="no training in the database has finished yet"):
        recommend(store, query_by_names(store, "data", "net"))
    record(store, trial(GOOD))
    with pytest.raises(
        InputError,
        match="neither the dataset x nor the network y is in the database: give --solver",
    ):
        recommend(store, query_by_names(store, "x", "y"))


def test_standings_follow_each_trial_however_often_it_is_recorded(store):
    first, second = trial(GOOD, [0.1, 0.9]), trial(GOOD, [0.1, 0.8], seed=2)
    record(store, first, second, trial(FAIR, state="running"))
    check(store, 1)
    store.begin(first)  # a journal that is replayed
    store.end(first.id, first.state, first.ended)
    check(store, 1)
    store.begin(dataclasses.replace(first, attempt=2))
    check(store, 1)
    assert standings(store)[0][0].count(",1,0.8,") == 1, "what runs again has not finished"
    record(
        store,
        dataclasses.replace(
            second, id=first.id[:-4] + "0000", started=second.started + 1, rows=second.rows[:1]
        ),
    )
    check(store, 1)
    assert ",1,0.1," in standings(store)[0][0], "of a seed that was trained twice, the later one"
    execute(store, "DELETE FROM trial WHERE seed = 2")
    check(store, 0)


def test_standings_of_an_import_are_those_of_the_database_it_came_from(
    store, database, dsn, tmp_path, private_copy
):
    record(
        store,
        trial(GOOD),
        trial(GOOD, [0.8], seed=2),
        trial(FAIR, network=CNN),
        trial(FAIR, dataset="other", state="diverged"),
    )
    exchange.export_trials(str(tmp_path / "file"), database, {})
    for _ in range(2):
        exchange.import_trials(str(tmp_path / "file"), private_copy)
    with Store(private_copy) as copy:
        check(copy, 2)
        assert policies(recommend(copy, query_by_names(copy, "data", "net"))) == policies(
            recommend(store, query_by_names(store, "data", "net"))
        )


@pytest.fixture
def private_copy(dsn):
    """The DSN of a second new database."""
    with new_database_on(dsn) as address:
        yield address


def test_many_writers_at_once_miss_no_trial(store, database):
    trials = [trial(GOOD, [0.1, 0.9], seed=seed) for seed in range(40)]

    def write(some):
        with Store(database) as own:
            record(own, *some)

    threads = [threading.Thread(target=write, args=(trials[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(store, 1)
    assert recommend(store, query_by_names(store, "data", "net")).known[0].policies[0].top1.n == 40


def test_an_older_database_gets_the_standings_of_its_trials(store):
    record(store, trial(GOOD), trial(FAIR))
    execute(
        store,
        "DROP TABLE standing; DROP FUNCTION keep_standing CASCADE; DROP VIEW standing_of_trials; DROP FUNCTION learning",
    )
    with open(os.path.join(schema.FOLDER, "migrations", "0005.sql")) as script:
        execute(store, script.read())
    check(store, 2)


def test_the_settings_that_tell_policies_apart_are_those_of_the_ranking(store):
    aside = dict.fromkeys(ranking.IGNORED_SETTINGS, 1)
    record(
        store,
        trial(GOOD, solver=dict(aside, max_iter=100)),
        trial(GOOD, solver={"max_iter": 100}, seed=2),
        trial(GOOD, solver={"max_iter": 200}),
    )
    assert len(ranking.rank(store.trials())) == 2
    check(store, 2)


@needs_caffe
def test_the_command_recommends_by_name_and_by_solver(lrbench, digits, database):
    assert (
        lrbench(
            "study",
            "run",
            "known",
            DIGITS,
            "--data",
            digits,
            "--max-iter",
            "50",
            "--policy",
            FAIR,
            "--dsn",
            database,
        ).returncode
        == 0
    )
    by_name = lrbench(
        "recommend",
        "--dataset",
        "digits",
        "--network",
        "Digits",
        "--format",
        "json",
        "--dsn",
        database,
    )
    by_solver = lrbench(
        "recommend", "--solver", DIGITS, "--data", digits, "--format", "json", "--dsn", database
    )
    assert by_name.returncode == 0, by_name.stderr
    assert by_name.stdout == by_solver.stdout and [
        row["policy"] for row in json.loads(by_name.stdout)
    ] == [FAIR]
    similar = lrbench(
        "recommend", "--solver", DIGITS, "--data", digits, "--network", "mine", "--dsn", database
    )
    assert (
        "Digits on digits is 100 % like mine on digits: input 1x8x8, as yours" in similar.stdout
        and FAIR in similar.stdout
    )
    nothing = lrbench("recommend", "--dataset", "digits", "--dsn", database)
    assert nothing.returncode == 2 and "a task is a dataset and a network" in nothing.stderr


def test_a_task_is_the_same_as_far_as_its_input_is_known(store):
    record(store, trial(GOOD, network=NETWORK))
    assert recommend(store, Query(Dataset("data", None, None, None), NETWORK)).same
