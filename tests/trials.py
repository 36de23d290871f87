"""Made-up trials, for tests in which the numbers of a training do not matter."""

import hashlib
import uuid

from lrbench_caffe.policies import Policy
from lrbench_caffe.trial import (
    FINISHED,
    RUNNING,
    Dataset,
    Evaluation,
    Framework,
    Network,
    Setup,
    Trial,
)

NET = 'name: "net"\n'
NETWORK = Network("net", hashlib.sha256(NET.encode()).hexdigest(), NET)


def trial(
    policy="FIX(k0=0.01)",
    top1=(0.5, 0.9),
    seed=1,
    state=FINISHED,
    dataset="data",
    network=NETWORK,
    solver=None,
    error=None,
    classes=(0.9, None, 0.8),
    n_classes=3,
    **changes,
):
    """A Trial with one evaluation per 100 iterations, whose Top-1 accuracies are top1."""
    parsed = Policy.parse(policy)
    parameters = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in parsed.parameters.items()
    }
    rows = tuple(
        Evaluation(
            100 * n,
            0.01,
            0.5 if n else None,
            0.4,
            share,
            1.0,
            share,
            0.1,
            0.05,
            0.1 if n else None,
            class_confidence=classes,
        )
        for n, share in enumerate(top1)
    )
    setup = Setup(
        Framework("Caffe", "1.0.0"),
        network,
        Dataset(dataset, (1, 8, 8), 1000, 400),
        n_classes,
        solver or {"max_iter": 100, "type": "SGD"},
        seed,
    )
    return Trial(
        str(uuid.uuid4()),
        str(parsed),
        parsed.function,
        parameters,
        parsed.n_params,
        setup,
        "host",
        1700000000.0 + seed,
        state=state,
        ended=None if state == RUNNING else 1700000100.0,
        error=error,
        rows=rows,
        **changes,
    )


def record(store, *trials):
    """Store trials in a database as a training does."""
    for trial in trials:
        store.begin(trial)
        for row in trial.rows:
            store.add(trial.id, row)
        if trial.ended is not None:
            store.end(trial.id, trial.state, trial.ended, trial.error)
    return list(trials)
