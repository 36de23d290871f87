"""One trial in a process of its own: how Python code trains it, describes it and ends it."""

import dataclasses
import os
import subprocess
import sys

import nets
import pytest
from conftest import ROOT, needs_caffe
from trials import trial as made_up
from waiting import LIMIT

pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)

import lrbench_caffe
from lrbench_caffe.study.events import EventReader
from lrbench_caffe.study.stop import interruptible
from lrbench_caffe.trial import to_dict

# Imports the program as a script in a clone does: neither PYTHONPATH nor the current folder help.
DESCRIBE = """
import sys
sys.path.insert(0, sys.argv[1])
from lrbench_caffe.study import process
from lrbench_caffe.trial import Job
print(process.describe(Job(sys.argv[2], policy="FIX(k0=0.010)", data=sys.argv[3])).policy)
"""


@needs_caffe
@pytest.mark.parametrize("argument", ["on_event", "listen"])
def test_train_reports_its_events_under_the_old_argument_name_too(argument, tmp_path, digits, dsn):
    """The argument on_event was called listen."""
    kinds = []
    path = nets.write(tmp_path, nets.solver(max_iter=20))
    receiver = {argument: lambda kind, content: kinds.append(kind)}
    trial = lrbench_caffe.train(path, data=digits, seed=1, **receiver)
    assert trial.state == "finished" and len(trial.rows) == kinds.count("row") > 0
    assert kinds.index("begin") < kinds.index("row") and kinds[-1] == "end"


@needs_caffe
def test_train_ends_with_the_verdict_that_a_receiver_returns(tmp_path, digits, dsn):
    def prune(kind, content):
        return ("pruned", "enough") if kind == "row" else None

    path = nets.write(tmp_path, nets.solver(max_iter=10**6))
    trial = lrbench_caffe.train(path, data=digits, on_event=prune)
    assert (trial.state, trial.error) == ("pruned", "enough") and trial.rows


@needs_caffe
def test_a_training_finds_the_program_where_its_parent_found_it(tmp_path, digits):
    path = nets.write(tmp_path)
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(
            folder for folder in others if folder and not os.path.samefile(folder, ROOT)
        ),
    )
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE, ROOT, path, digits],
        cwd=str(tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout == "FIX(k0=0.01)\n", done.stderr


READ_IMAGES = """
import sys
import lrbench_caffe.training.worker
import caffe
import numpy as np

print("skimage" in sys.modules)
image = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
small = caffe.io.resize_image(image, (2, 2))
print(small.shape, float(small.min()) < float(small.max()))
print(caffe.io.skimage.img_as_float(np.full(1, 255, np.uint8)))
import skimage
print(skimage is sys.modules["skimage"], skimage.__version__ > "0")
"""


@needs_caffe
def test_a_training_imports_scikit_image_when_it_reads_images():
    done = subprocess.run(
        [sys.executable, "-c", READ_IMAGES],
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.stdout.splitlines() == ["False", "(2, 2, 3) True", "[1.]", "True True"], done.stderr


@needs_caffe
def test_a_log_that_cannot_be_written_is_refused(tmp_path, digits, dsn):
    log = str(tmp_path / "missing" / "caffe.log")
    with pytest.raises(lrbench_caffe.InputError, match="cannot write Caffe's log .* with --log"):
        lrbench_caffe.train(nets.write(tmp_path), data=digits, log=log)


def test_a_stop_that_comes_first_keeps_a_block_from_ending_normally():
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        stop()
        stop()
        assert stop.requests == 2


def test_events_that_travelled_as_json_are_values_again():
    trial = made_up()
    rows, begun = trial.rows, dataclasses.replace(trial, rows=(), state="running")
    reader = EventReader()
    assert reader.read("note", "text") == "text"
    assert reader.read("begin", to_dict(begun)) == begun == reader.trial
    assert tuple(reader.read("row", to_dict(row)) for row in rows) == rows == reader.trial.rows
    end = reader.read("end", {"state": "finished", "ended": 2.0, "error": None})
    assert (end.state, end.ended, end.rows) == ("finished", 2.0, rows)
