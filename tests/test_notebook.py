"""What a notebook uses: the trials as a DataFrame, and the charts."""

from dataclasses import replace

import pytest
from trials import trial

import lrbench_caffe
from lrbench_caffe import InputError

pytest.importorskip("psycopg2")
pytest.importorskip("matplotlib")


@pytest.fixture
def recorded(store):
    """Two trials of the database, with two evaluations each."""
    first = trial("FIX(k0=0.01)", (0.5, 0.9))
    later = replace(trial("SIN(k0=0.01, k1=0.1, l=50)", (0.6, 0.8)), started=first.started + 1)
    trials = [first, later]
    for made in trials:
        store.begin(made)
        for row in made.rows:
            store.add(made.id, row)
        store.end(made.id, made.state, made.ended, made.error)
    return trials


def test_trials_is_a_line_for_each_trial_with_its_best_row(recorded, database):
    pytest.importorskip("pandas")
    table = lrbench_caffe.trials(dsn=database)
    assert list(table.policy) == [made.policy for made in recorded]
    assert list(table.top1) == [0.9, 0.8] and list(table.iterations) == [100, 100]
    assert str(table.started.dtype) == "datetime64[ns, UTC]"
    only_sin = lrbench_caffe.trials(dsn=database, function="SIN")
    assert list(only_sin.trial) == [recorded[1].id]


def test_rows_are_a_line_for_each_evaluation(recorded, database):
    pytest.importorskip("pandas")
    table = lrbench_caffe.trials(rows=True, dsn=database)
    assert list(table.iteration) == [0, 100, 0, 100]
    assert list(table.top1) == [0.5, 0.9, 0.6, 0.8]


def test_a_filter_that_selects_nothing_is_an_error(recorded, database):
    pytest.importorskip("pandas")
    with pytest.raises(InputError, match="SINE"):
        lrbench_caffe.trials(dsn=database, function="SINE")


def test_plot_draws_policies_trials_or_the_database(recorded, database):
    rates = lrbench_caffe.plot("FIX(k0=0.01)", lrbench_caffe.Policy("FIX", k0=0.02), max_iter=10)
    (panel,) = rates.axes
    assert [line.get_xdata()[-1] for line in panel.lines] == [10, 10]
    assert rates._repr_png_().startswith(b"\x89PNG")
    assert len(lrbench_caffe.plot(*recorded).axes) == 2 * len(recorded)
    assert len(lrbench_caffe.plot(dsn=database, function="SIN").axes) == 2
    with pytest.raises(InputError, match="not both"):
        lrbench_caffe.plot("FIX(k0=0.01)", recorded[0])
