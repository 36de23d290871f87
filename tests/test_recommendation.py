"""Recommendation: the best policies for a task or for similar tasks, and their standings."""

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
from lrbench_caffe.ranking import blocks
from lrbench_caffe.trial import Dataset, Network

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, exchange, schema
from lrbench_caffe.display import formats, tables
from lrbench_caffe.evaluator import explanation
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


def with_dataset(trial, shape, train_samples, test_samples):
    """The trial on a dataset of this shape and size."""
    dataset = Dataset(trial.setup.dataset.name, shape, train_samples, test_samples)
    return dataclasses.replace(trial, setup=dataclasses.replace(trial.setup, dataset=dataset))


def with_solver(trial, **changes):
    settings = dict(trial.setup.solver, **changes)
    return dataclasses.replace(trial, setup=dataclasses.replace(trial.setup, solver=settings))


def standings(store):
    """(the table of standings, the standings computed from the trials), each as sorted texts."""
    query = """
        SELECT (s.dataset_id, s.network_id, s.task_id, s.policy_id, settings, k0, seeds, top1,
                top1_std, iterations)::text FROM %s s"""

    def rows(source):
        def work(cursor):
            cursor.execute(query % source)
            return cursor.fetchall()

        return sorted(row[0] for row in store.transaction(work))

    return rows("standing"), rows("standing_of_trials")


def check(store, count):
    """Check that the table of standings is up to date and has so many rows."""
    table, computed = standings(store)
    assert table == computed
    assert len(table) == count


def execute(store, statement):
    store.transaction(lambda cursor: cursor.execute(statement))


def recommended(store, *names):
    """The results of a recommendation for a dataset and a network by their names."""
    return recommend(store, query_by_names(store, *names)).tasks


def policies(results):
    return [standing.policy for standing in results[0].policies]


def test_the_best_policies_of_a_task_by_the_mean_of_their_seeds(store):
    record(
        store,
        trial(GOOD, [0.1, 0.98]),
        trial(GOOD, [0.1, 0.96], seed=2),
        trial(FAIR, [0.1, 0.975]),
        trial("FIX(k0=0.001)", [0.5]),
        trial(GOOD, [0.99], dataset="other"),
        trial("FIX(k0=1)", [0.99], state="failed", error="x"),
    )
    recommendation = recommend(store, query_by_names(store, "data", "net"), limit=2)
    assert recommendation.same
    (results,) = recommendation.tasks
    assert results.similarity == 1
    assert results.rates == (0.01, 0.06)
    assert policies([results]) == [GOOD, FAIR], "a single seed comes after several"
    best = results.policies[0]
    assert best.top1 == (pytest.approx(0.97), pytest.approx(0.01414, abs=1e-4), 2)
    assert best.iterations == 100 and best.seeds == (1, 2)
    assert best.settings == {"max_iter": 100}, "without what has the default of Caffe"
    assert results.shortcomings == ((), ("it has one seed",))
    assert not recommendation.similar, "the evidence for the best policy is enough"


def test_a_network_is_found_by_its_name_or_its_hash(store):
    record(
        store, trial(GOOD, network=CNN), trial(FAIR, network=dataclasses.replace(CNN2, name="cnn"))
    )
    assert len(recommended(store, "data", "cnn")) == 2
    assert policies(recommended(store, "data", CNN2.hash)) == [FAIR]


def test_the_good_range_consists_of_constant_rates(store):
    tops = {0.0001: 0.4, 0.001: 0.9, 0.01: 0.92, 0.1: 0.5}
    record(store, *(trial("FIX(k0=%g)" % k0, [0.1, top1]) for k0, top1 in tops.items()))
    good = recommended(store, "data", "net")[0].good
    assert (good.low, good.high, good.best) == (0.001, 0.01, 0.01)


def test_the_good_range_is_from_longer_trainings_if_these_tried_enough_rates(store):
    def constants(max_iter, best, count):
        for k0 in (0.001 * 2**n for n in range(count)):
            constant = trial("FIX(k0=%g)" % k0, [0.1, 0.99 if k0 == best else 0.5])
            yield with_solver(constant, max_iter=max_iter)

    record(store, *constants(10, 0.064, 9), *constants(200, 0.004, 5), *constants(1000, 0.001, 3))
    assert recommended(store, "data", "net")[0].good.best == 0.004


def test_trainings_far_shorter_than_the_solvers_have_no_good_range(store):
    tops = {0.0001: 0.4, 0.001: 0.9, 0.01: 0.92, 0.1: 0.5}
    record(store, *(trial("FIX(k0=%g)" % k0, [0.1, top1]) for k0, top1 in tops.items()))
    names = query_by_names(store, "data", "net")

    def good(max_iter):
        return recommend(store, names._replace(solver={"max_iter": max_iter})).tasks[0].good

    assert good(1000).best == 0.01
    assert good(1001) is None, "a tenth of its trainings is longer"


def test_similar_tasks_are_sorted_and_explained(store):
    photos = trial(GOOD, dataset="photos", network=CNN)
    images = trial(FAIR, dataset="digits", network=MLP)
    record(
        store,
        with_dataset(photos, (3, 32, 32), 50000, 10000),
        with_dataset(images, (1, 8, 8), 1000, 400),
    )
    pictures = Dataset("pictures", (3, 28, 28), 60000, 10000)
    query = Query(pictures, CNN2, 3, {"type": "Adam", "batch_size": 64})
    similar = recommend(store, query)
    assert not similar.same
    assert [results.task.dataset.name for results in similar.tasks] == ["photos", "digits"]
    assert similar.tasks[0].similarity > 0.7 > 0.4 > similar.tasks[1].similarity
    (first, *_), (second, *_) = explanation.explanations(similar)
    assert first.startswith("cnn on photos is")
    assert "% similar to cnn2 on pictures: " in first
    assert "input 3x32x32, yours has 3x28x28" in first
    assert "3 classes, same as yours" in first
    assert "50000 training samples, yours has 60000" in first
    assert "2 of its 3 layers have the types of your 2 layers" in first
    assert "optimizer SGD, yours has Adam" in first
    assert "0 of its 1 layers" in second


def test_a_dataset_with_another_network_is_similar_by_its_data(store):
    record(store, trial(GOOD, network=CNN))
    (results,) = recommended(store, "data", "unknown")
    scores = {comparison.feature: comparison.score for comparison in results.comparisons}
    assert scores == {"input": 1, "classes": 1, "samples": 1, "network": 0}


def query(**solver):
    return Query(Dataset("data", (1, 8, 8), 1000, 400), NETWORK, 3, solver)


def test_an_answer_names_its_trainings_iterations_and_seeds(store):
    record(store, *(trial(GOOD, [0.1, 0.98], seed) for seed in (3, 1, 7)))
    (sentences,) = explanation.explanations(recommend(store, query(max_iter=100)))
    assert sentences[:2] == [
        "net on data: the database has results for this task",
        "its best policy is from 3 trainings of 100 iterations with seeds 1, 3, 7",
    ]
    assert not any("little" in sentence for sentence in sentences)


def test_little_evidence_is_called_so_and_similar_tasks_follow(store):
    record(
        store,
        trial(GOOD, [0.1, 0.98]),
        trial(FAIR, dataset="other"),
        trial(FAIR, dataset="other", seed=2),
        trial(FAIR, network=CNN),
    )
    answer = recommend(store, query(max_iter=600))
    own, *similar = explanation.explanations(answer)
    assert own[1:3] == [
        "its best policy is from 1 training of 100 iterations with seed 1",
        "this is little evidence: it has one seed, and the solver trains 600 iterations",
    ]
    assert own[-1] == "similar tasks follow"
    assert [results.task.dataset.name for results in answer.tasks] == ["data"]
    assert explanation.titles(answer) == ["net on data", "net on other", "cnn on data"]
    other, cnn = similar
    assert other[0].startswith("net on other is 100 % similar to net on data: ")
    assert other[1] == "its best policy is from 2 trainings of 100 iterations with seeds 1, 2"
    assert other[2] == "this is little evidence: the solver trains 600 iterations"
    assert cnn[1] == "its best policy is from 1 training of 100 iterations with seed 1"
    assert "similar tasks follow" not in other + cnn


def test_little_evidence_without_a_similar_task_is_called_so_too(store):
    record(store, trial(GOOD))
    answer = recommend(store, query())
    (sentences,) = explanation.explanations(answer)
    assert answer.similar == ()
    assert sentences[-1] == "the database does not have a similar task"
    assert "this is little evidence: it has one seed" in sentences


def test_full_trainings_come_before_short_ones_and_before_another_head(store):
    record(
        store,
        *(with_solver(trial("FIX(k0=1)", [0.9], seed), head="loss1") for seed in (1, 2)),
        *(with_solver(trial("FIX(k0=0.1)", [0.8], seed), max_iter=50) for seed in (1, 2)),
        *(trial(GOOD, [0.5], seed) for seed in (1, 2)),
        *(trial(FAIR, [0.4], seed) for seed in (1, 2)),
    )
    (results,) = recommend(store, query(type="SGD", max_iter=100), limit=4).tasks
    assert policies([results]) == [GOOD, FAIR, "FIX(k0=1.0)", "FIX(k0=0.1)"]
    assert results.shortcomings == (
        (),
        (),
        ("it was measured at another classifier head",),
        ("the solver trains 100 iterations",),
    )
    (results,) = recommend(store, query(type="SGD", head="loss1"), limit=1).tasks
    assert policies([results]) == ["FIX(k0=1.0)"]


def test_without_a_solver_short_trainings_are_compared_with_the_longest(store):
    record(
        store,
        trial(GOOD, [0.98]),
        *(with_solver(trial(FAIR, [0.9], seed), max_iter=50) for seed in (1, 2)),
    )
    (results,) = recommended(store, "data", "net")
    assert policies([results]) == [GOOD, FAIR]
    assert results.shortcomings == (("it has one seed",), ("others were trained 100 iterations",))


def test_the_good_range_names_its_trainings(store):
    tops = {0.0001: 0.4, 0.001: 0.9, 0.01: 0.92, 0.1: 0.5}
    record(store, *(trial("FIX(k0=%g)" % k0, [0.1, top1]) for k0, top1 in tops.items()))
    (sentences,) = explanation.explanations(recommend(store, query()))
    assert (
        "its good constant rates go from 0.001 to 0.01, best 0.01, from 4 rates with trainings of"
        " 100 iterations and one seed"
    ) in sentences


def test_tables_name_the_settings_that_distinguish_rows(store):
    record(store, trial(GOOD), with_solver(trial(GOOD), weight_decay=0.1))
    (results,) = recommend(store, query()).tasks
    table = tables.standings(results, "net on data")
    markdown = formats.render([table], "markdown")
    assert "| settings |" in markdown and r"| weight\_decay=0.1 |" in markdown
    record(store, trial(FAIR, dataset="other"))
    (results,) = recommended(store, "other", "net")
    assert "settings" not in formats.render([tables.standings(results, "")], "markdown")


def test_a_label_selects_one_of_several_networks_or_datasets_with_a_name(store):
    twin = dataclasses.replace(CNN2, name="cnn")
    small = with_dataset(trial(FAIR, network=CNN), (1, 8, 8), 500, 400)
    record(store, trial(GOOD, network=CNN), trial(GOOD, network=twin), small)
    everything = recommend(store, query_by_names(store, "data", "cnn"))
    assert sorted(explanation.titles(everything)) == sorted(
        [
            "cnn@%s on data@1x8x8/1000/400" % CNN.hash[:8],
            "cnn@%s on data@1x8x8/500/400" % CNN.hash[:8],
            "cnn@%s on data@1x8x8/1000/400" % twin.hash[:8],
        ]
    )
    label = "cnn@" + CNN.hash[:8]
    assert len(recommended(store, "data", label)) == 2
    (results,) = recommended(store, "data@1x8x8/500/400", label)
    assert results.task.dataset.train_samples == 500 and policies([results]) == [FAIR]
    assert len(store.trials(network="cnn")) == 3
    assert len(store.trials(network=label)) == 2
    assert len(store.trials(network=label, dataset="data@1x8x8/1000/400")) == 1
    assert store.trials(network="cnn@") == store.trials(network="cnn@ffff") == []
    solver = Query(Dataset("data", (1, 8, 8), 500, 400), CNN, 3)
    assert [results.task.dataset.train_samples for results in recommend(store, solver).tasks] == [
        500
    ], "a dataset of another size is another task"


def test_a_task_that_cannot_be_compared_is_an_error(store):
    with pytest.raises(InputError, match="the database does not have a finished training yet"):
        recommended(store, "data", "net")
    record(store, trial(GOOD))
    sentence = "neither the dataset x nor the network y is in the database: give --solver"
    with pytest.raises(InputError, match=sentence):
        recommended(store, "x", "y")


def test_standings_follow_each_trial_however_often_it_is_recorded(store):
    first, second = trial(GOOD, [0.1, 0.9]), trial(GOOD, [0.1, 0.8], seed=2)
    record(store, first, second, trial(FAIR, state="running"))
    check(store, 1)
    store.begin(first)  # as when a journal is replayed
    store.end(first.id, first.state, first.ended)
    check(store, 1)
    store.begin(dataclasses.replace(first, attempt=2))
    check(store, 1)
    assert standings(store)[0][0].count(",1,0.8,") == 1, (
        "a trial that was started again has not finished"
    )
    record(
        store,
        dataclasses.replace(
            second, id=first.id[:-4] + "0000", started=second.started + 1, rows=second.rows[:1]
        ),
    )
    check(store, 1)
    assert ",1,0.1," in standings(store)[0][0], "the later of two trials with the same seed counts"
    execute(store, "DELETE FROM trial WHERE seed = 2")
    check(store, 0)


def test_an_import_has_the_standings_of_the_exported_database(
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
        own = recommended(store, "data", "net")
        assert policies(recommended(copy, "data", "net")) == policies(own)


@pytest.fixture
def private_copy(dsn):
    """The DSN of a second new database."""
    with new_database_on(dsn) as address:
        yield address


def test_concurrent_writers_do_not_lose_trials(store, database):
    trials = [trial(GOOD, [0.1, 0.9], seed=seed) for seed in range(40)]

    def write(share):
        with Store(database) as own_store:
            record(own_store, *share)

    threads = [threading.Thread(target=write, args=(trials[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(store, 1)
    assert recommended(store, "data", "net")[0].policies[0].top1.n == 40


def test_a_migrated_database_has_the_standings_of_its_trials(store):
    record(store, trial(GOOD), trial(FAIR))
    execute(
        store,
        "DROP TABLE standing; DROP FUNCTION keep_standing CASCADE;"
        "DROP VIEW standing_of_trials; DROP FUNCTION learning",
    )
    with open(os.path.join(schema.FOLDER, "migrations", "0005.sql")) as script:
        execute(store, script.read())
    check(store, 2)


def test_standings_ignore_the_same_settings_as_the_ranking(store):
    ignored = {**dict.fromkeys(ranking.IGNORED_SETTINGS, 1), **blocks.DEFAULT_SETTINGS}
    record(
        store,
        trial(GOOD, solver=dict(ignored, max_iter=100)),
        trial(GOOD, solver={"max_iter": 100}, seed=2),
        trial(GOOD, solver={"max_iter": 200}),
    )
    assert len(ranking.rank(store.trials())) == 2
    check(store, 2)


@needs_caffe
def test_the_command_recommends_by_name_and_by_solver(invoke, digits, database):
    def recommend(*arguments):
        return invoke("recommend", *arguments, "--dsn", database)

    solver = ["--solver", DIGITS, "--data", digits]
    arguments = ["--data", digits, "--max-iter", "50", "--policy", FAIR, "--dsn", database]
    assert invoke("study", "run", "known", DIGITS, *arguments).returncode == 0
    by_name = recommend("--dataset", "digits", "--network", "Digits", "--format", "json")
    by_solver = recommend(*solver, "--format", "json")
    assert by_name.returncode == 0, by_name.stderr
    (named,), (solved,) = json.loads(by_name.stdout), json.loads(by_solver.stdout)
    assert named["policy"] == FAIR and named["seed_numbers"] == "1" and named["max_iter"] == 50
    assert named["little_evidence"] == "it has one seed"
    assert solved["little_evidence"] == "it has one seed; the solver trains 600 iterations"
    assert dict(named, little_evidence="") == dict(solved, little_evidence="")
    assert "its best policy is from 1 training of 50 iterations with seed 1" in by_solver.stderr
    similar = recommend(*solver, "--network", "mine")
    sentence = "Digits on digits is 100 % similar to mine on digits: input 1x8x8, same as yours"
    assert sentence in similar.stdout
    assert FAIR in similar.stdout
    incomplete = recommend("--dataset", "digits")
    assert incomplete.returncode == 2
    assert "a task is a dataset and a network" in incomplete.stderr
    other = recommend(*solver, "--dataset", "mine")
    assert "Digits on digits is 100 % similar to Digits on mine" in other.stdout


def test_a_task_with_unknown_inputs_can_be_the_same(store):
    record(store, trial(GOOD, network=NETWORK))
    assert recommend(store, Query(Dataset("data", None, None, None), NETWORK)).same
