"""Validation samples: which ones are chosen, `lrbench data ... --validation` and `data split`."""

import importlib.util
import io
import os
import shutil
import signal
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_datasets import _killed_at as killed_at
from test_datasets import part, read_by_caffe, read_lmdb

from lrbench_caffe import InputError, datasets, stratified
from lrbench_caffe.training import division, records

needs_caffe = pytest.mark.skipif(
    importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`"
)


def write_lmdb(folder, content):
    """Write an LMDB of keys and values."""
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as change:
        for key, value in content:
            assert change.put(key, value)
    return str(folder)


def datum(label, **fields):
    from caffe.proto import caffe_pb2

    fields = fields or dict(channels=1, height=2, width=2, data=bytes([label, 1, 2, 3]))
    return caffe_pb2.Datum(label=label, **fields).SerializeToString()


def labels_of(path):
    from caffe.proto import caffe_pb2

    return [caffe_pb2.Datum.FromString(value).label for _, value in read_lmdb(path)]


def digits_like(folder, samples=60):
    """An LMDB with three classes of equal size."""
    return write_lmdb(folder, [(b"%08d" % n, datum(n % 3)) for n in range(samples)])


# Which samples are chosen


@given(st.lists(st.integers(-3, 6), min_size=2, max_size=60), st.data())
def test_each_class_gives_its_share_and_keeps_a_sample(labels, data):
    labels = np.array(labels)
    sizes = Counter(labels.tolist())
    if 2 * len(sizes) > len(labels):
        return
    validation = data.draw(st.integers(len(sizes), len(labels) - len(sizes)))
    try:
        chosen = stratified.choose(labels, validation, "x")
    except InputError:
        pytest.fail("a possible number was refused")
    assert chosen.sum() == validation
    assert np.array_equal(chosen, stratified.choose(labels, validation, "x"))
    for label, size in sizes.items():
        share = int(chosen[labels == label].sum())
        assert min(1, size - 1) <= share <= size - 1
    if len(set(sizes.values())) == 1:
        shares = Counter(labels[chosen].tolist())
        assert max(shares.values()) - min(shares.values()) <= 1


def test_the_shares_are_those_of_the_classes_and_the_samples_the_last_ones_of_a_fixed_order():
    labels = np.repeat([4, 9, 0], [600, 300, 100])
    chosen = stratified.choose(labels, 107, "x")
    assert [int(chosen[labels == label].sum()) for label in (4, 9, 0)] == [64, 32, 11]
    order = np.random.RandomState(0).permutation(1000)
    expected = [n for n in order if labels[n] == 9][-32:]
    assert sorted(expected) == np.flatnonzero(chosen & (labels == 9)).tolist()


@pytest.mark.parametrize(
    "validation, message",
    [
        (2, "mine: invalid validation=2, expected at least 3, a sample of each class"),
        (-1, "mine: invalid validation=-1, expected at least 3"),
        (
            28,
            "mine: invalid validation=28 of 30 samples, expected at most 27, because each of the ",
        ),
    ],
)
def test_a_number_that_the_classes_do_not_allow_is_an_input_error(validation, message):
    with pytest.raises(InputError) as error:
        stratified.choose(np.arange(30) % 3, validation, "mine")
    assert str(error.value).startswith(message)


# The data sets


@needs_caffe
def test_the_training_samples_of_digits_are_divided_and_the_test_samples_are_not(tmp_path):
    whole = datasets.convert("digits", str(tmp_path / "whole"))
    files = datasets.convert("digits", str(tmp_path / "divided"), validation=397)
    names = ["train_lmdb", "validation_lmdb", "test_lmdb", "mean.binaryproto"]
    assert [os.path.basename(path) for path in files.paths] == [
        "digits_%s" % name for name in names
    ]
    assert read_lmdb(files.test) == read_lmdb(whole.test)
    divided = [value for path in files.paths[:2] for _, value in read_lmdb(path)]
    assert len(read_lmdb(files.validation)) == 397
    assert Counter(divided) == Counter(value for _, value in read_lmdb(whole.train))
    shares = Counter(labels_of(files.validation))
    sizes = Counter(labels_of(whole.train))
    assert all(abs(shares[label] - 397 * sizes[label] / 1397) < 1 for label in range(10))
    images, _ = read_by_caffe(files.train, 1000, "", tmp_path)
    less_mean, _ = read_by_caffe(files.train, 1000, 'mean_file: "%s"' % files.mean, tmp_path)
    assert np.allclose(images.mean(axis=0), (images - less_mean)[0], atol=1e-3)


@needs_caffe
def test_files_with_another_number_of_validation_samples_are_kept_and_named(tmp_path):
    files = datasets.convert("digits", str(tmp_path), validation=100)
    assert files.written
    assert not datasets.convert("digits", str(tmp_path), validation=100).written
    for other in (0, 200):
        with pytest.raises(InputError) as error:
            datasets.convert("digits", str(tmp_path), validation=other)
        assert str(error.value).startswith(
            "%s was made with 100 validation samples, not %d: name another folder"
            % (files[0], other)
        )
    shutil.rmtree(files.train)
    assert datasets.convert("digits", str(tmp_path)).written
    assert not os.path.exists(files.validation), "the training set has its samples again"
    with pytest.raises(InputError, match="was made with 0 validation samples, not 100"):
        datasets.convert("digits", str(tmp_path), validation=100)
    with pytest.raises(InputError, match="invalid validation=-1"):
        datasets.convert("digits", str(tmp_path), validation=-1)


@needs_caffe
def test_a_set_that_cannot_replace_an_older_one_leaves_it_complete(tmp_path, monkeypatch):
    older, newer = part(50, (1, 6, 6)), part(80, (1, 6, 6), seed=1)
    files = datasets.write_dataset("tiny", str(tmp_path), older, older, validation=older)
    before = [read_lmdb(path) for path in files.paths[:3]]
    rename = os.rename
    for moment in range(1, 8):  # four files move away, then three new ones get their places
        left = [moment]

        def failing(source, target, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, "Input/output error")
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", failing)
            with pytest.raises(InputError, match="cannot write tiny to .*Input/output error"):
                datasets.write_dataset("tiny", str(tmp_path), newer, newer)
        assert [read_lmdb(path) for path in files.paths[:3]] == before
        assert len(os.listdir(str(tmp_path))) == 5


@needs_caffe
def test_the_command_writes_and_names_the_three_lmdbs(invoke, tmp_path):
    done = invoke("data", "--to", tmp_path, "--validation", 50, "digits")
    names = ["digits_train_lmdb", "digits_validation_lmdb", "digits_test_lmdb"]
    paths = [str(tmp_path / name) for name in names]
    assert done.returncode == 0, done.stderr
    assert " ".join(done.stdout.split()) == "wrote %s and %s" % (
        ", ".join(paths),
        tmp_path / "digits_mean.binaryproto",
    )
    refused = invoke("data", "digits", "--to", tmp_path / "new", "--validation", 9)
    assert refused.returncode == 2
    assert refused.stderr.startswith("lrbench: digits: invalid validation=9, expected at least 10")


# A user's own LMDB


@needs_caffe
@pytest.mark.parametrize("kind", ["pixels", "encoded images", "floats"])
def test_a_split_copies_keys_and_messages_as_they_are(kind, invoke, tmp_path):
    from PIL import Image

    def message(n):
        if kind == "floats":
            return datum(n % 3, channels=5, height=1, width=1, float_data=np.arange(5) / (n + 1))
        if kind == "pixels":
            return datum(n % 3, channels=3, height=40, width=30, data=bytes([n]) * 3600)
        png = io.BytesIO()
        Image.fromarray(np.full((n + 1, 9, 3), n, np.uint8)).save(png, "png")
        return datum(n % 3, encoded=True, data=png.getvalue())

    content = [(b"%08d_dir/image %d.png" % (n, n), message(n)) for n in range(90)]
    source = write_lmdb(tmp_path / "mine", content)
    before = (tmp_path / "mine" / "data.mdb").read_bytes(), os.listdir(source)
    done = invoke("data", "split", source + "/", "--validation", 30)
    assert done.returncode == 0, done.stderr
    train, validation = source + "-train", source + "-validation"
    assert " ".join(done.stdout.split()) == "wrote %s and %s" % (train, validation)
    assert sorted(read_lmdb(train) + read_lmdb(validation)) == content
    assert Counter(labels_of(validation)) == {0: 10, 1: 10, 2: 10}
    assert ((tmp_path / "mine" / "data.mdb").read_bytes(), os.listdir(source)) == before
    assert sorted(os.listdir(str(tmp_path))) == [
        ".mine-split.lock",
        "mine",
        "mine-train",
        "mine-validation",
    ]


@needs_caffe
def test_caffe_reads_a_split_and_other_names_can_be_given(tmp_path):
    source = digits_like(tmp_path / "mine")
    files = datasets.split(source, 12, str(tmp_path / "new" / "ours"))
    assert files == (
        str(tmp_path / "new" / "ours-train"),
        str(tmp_path / "new" / "ours-validation"),
    )
    images, labels = read_by_caffe(files.train, 48, "", tmp_path)
    assert labels.tolist() == labels_of(files.train) == images[:, 0, 0, 0].tolist()
    assert datasets.split(source, 12) != files, "without out, they stand beside the LMDB"
    assert read_lmdb(source + "-train") == read_lmdb(files.train), "the choice is the same"


@needs_caffe
def test_the_folder_of_the_lmdb_can_be_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(digits_like(tmp_path / "mine"))
    assert datasets.split(".", 12).train == str(tmp_path / "mine-train")


@needs_caffe
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9000), min_size=40, max_size=300),
    key=st.integers(8, 500),
)
def test_the_map_of_a_split_has_room_for_records_of_any_size(sizes, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    content = [
        (b"%0*d" % (key, n), datum(0, data=bytes(size), channels=1)) for n, size in enumerate(sizes)
    ]
    source = write_lmdb(folder / "mine", content)
    files = datasets.split(source, len(sizes) // 3)
    assert sorted(read_lmdb(files.train) + read_lmdb(files.validation)) == content
    shutil.rmtree(str(folder))


@needs_caffe
def test_progress_is_reported_for_reading_and_for_both_lmdbs(tmp_path):
    reports = []
    source = digits_like(tmp_path / "mine", 1500)
    datasets.split(source, 300, progress=lambda *report: reports.append(report))
    assert reports == [
        ("reading mine", 1000, 1500),
        ("reading mine", 1500, 1500),
        ("mine-train", 1000, 1200),
        ("mine-train", 1200, 1200),
        ("mine-validation", 300, 300),
    ]


@needs_caffe
@pytest.mark.parametrize(
    "value, message",
    [
        (b"\x08\x01", "the record b'00000060' of the LMDB %s does not have a label"),
        (b"\x2a\x02\x01\x02", "the record b'00000060' of the LMDB %s does not have a label"),
        (b"\x28\x01\x28\x02", "the record b'00000060' of the LMDB %s has more than one label"),
        (b"\xff", "the record b'00000060' of the LMDB %s is not a Datum"),
    ],
)
def test_a_record_without_exactly_one_label_is_an_input_error(value, message, tmp_path):
    source = digits_like(tmp_path / "mine")
    write_lmdb(source, [(b"%08d" % 60, value)])
    with pytest.raises(InputError) as error:
        datasets.split(source, 12)
    assert str(error.value).startswith(message % source) and "\n" not in str(error.value)
    assert os.listdir(str(tmp_path)) == ["mine"]


@needs_caffe
@pytest.mark.parametrize(
    "prepare, validation, message",
    [
        (lambda mine: None, 2, "{mine}: invalid validation=2, expected at least 3"),
        (lambda mine: None, 58, "{mine}: invalid validation=58 of 60 samples"),
        (lambda mine: shutil.rmtree(str(mine)), 12, "{mine} cannot be read as an LMDB"),
        (
            lambda mine: os.mkdir("%s-validation" % mine),
            12,
            "{mine}-validation exists: remove it, or name other LMDBs with --out",
        ),
        (
            lambda mine: os.symlink("nowhere", "%s-train" % mine),
            12,
            "{mine}-train exists: remove it, or name other LMDBs with --out",
        ),
    ],
)
def test_a_split_that_is_not_possible_is_an_input_error(prepare, validation, message, tmp_path):
    source = digits_like(tmp_path / "mine")
    prepare(tmp_path / "mine")
    before = sorted(os.listdir(str(tmp_path)))
    with pytest.raises(InputError) as error:
        datasets.split(source, validation)
    assert str(error.value).startswith(message.format(mine=source))
    assert sorted(os.listdir(str(tmp_path))) == before


@needs_caffe
def test_an_empty_end_of_the_prefix_is_an_input_error(tmp_path):
    source = digits_like(tmp_path / "mine")
    with pytest.raises(InputError, match="invalid out=.*, for example .*/new/mine"):
        datasets.split(source, 12, str(tmp_path / "new") + "/")


@needs_caffe
def test_damaged_pages_that_end_the_process_of_lmdb_are_an_input_error(tmp_path):
    source = digits_like(tmp_path / "mine", 2000)
    size = os.path.getsize(os.path.join(source, "data.mdb"))
    messages = set()
    for page in range(2, size // 4096):
        damaged = str(tmp_path / "damaged")
        shutil.copytree(source, damaged)
        with open(os.path.join(damaged, "data.mdb"), "r+b") as file:
            file.seek(4096 * page)
            file.write(bytes(4096))
        try:
            datasets.split(damaged, 12)
        except InputError as error:
            messages.add(str(error))
        shutil.rmtree(damaged)
    assert (
        "the LMDB %s is damaged: LMDB itself fails when it reads all records (exit status %d): "
        "make it again" % (damaged, -signal.SIGABRT)
    ) in messages
    assert all(damaged in message for message in messages)


@needs_caffe
def test_an_lmdb_that_changes_between_reading_and_copying_is_an_input_error(tmp_path):
    source = digits_like(tmp_path / "mine")

    def change(name, done, total):
        if name == "reading mine":
            write_lmdb(source, [(b"%08d" % 60, datum(0))])

    with pytest.raises(InputError, match="mine was changed while it was read"):
        datasets.split(source, 12, progress=change)
    assert sorted(os.listdir(str(tmp_path))) == [".mine-split.lock", "mine"]


@needs_caffe
def test_a_full_disk_is_named_and_nothing_is_left(small_disk, tmp_path):
    source = digits_like(tmp_path / "mine", 3000)
    (small_disk / "other").write_bytes(bytes(200000))
    with pytest.raises(InputError) as error:
        datasets.split(source, 1000, str(small_disk / "mine"))
    assert str(error.value).startswith(
        "cannot write %s/mine-train and %s/mine-validation (the disk of %s is full"
        % (small_disk, small_disk, small_disk)
    )
    assert sorted(os.listdir(str(small_disk))) == [".mine-split.lock", "other"]


@needs_caffe
@pytest.mark.skipif(
    sys.version_info < (3, 8), reason="needs audit hooks, which came with Python 3.8"
)
def test_a_kill_at_any_moment_leaves_no_incomplete_lmdb(tmp_path):
    source = digits_like(tmp_path / "mine")
    expected = [read_lmdb(path) for path in datasets.split(source, 12, str(tmp_path / "expected"))]
    ends = []
    while not ends or ends[-1] != 0:
        out = tmp_path / str(len(ends)) / "mine"
        ends.append(
            killed_at(
                len(ends) + 1, lambda progress: datasets.split(source, 12, str(out), progress)
            )
        )
        for path, content in zip(("%s-train" % out, "%s-validation" % out), expected):
            if os.path.exists(path):
                assert read_lmdb(path) == content
                shutil.rmtree(path)
        files = datasets.split(source, 12, str(out))
        assert [read_lmdb(path) for path in files] == expected
        assert sorted(os.listdir(str(out.parent))) == [
            ".mine-split.lock",
            "mine-train",
            "mine-validation",
        ]
    assert signal.SIGKILL in ends


@needs_caffe
def test_an_interrupted_split_leaves_only_the_lock(tmp_path):
    source = digits_like(tmp_path / "mine", 1200)

    def interrupt(name, done, total):
        if name == "mine-validation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.split(source, 12, progress=interrupt)
    assert sorted(os.listdir(str(tmp_path))) == [".mine-split.lock", "mine"]


@needs_caffe
def test_an_index_has_the_labels_and_the_sizes(tmp_path):
    content = [(b"a", datum(7)), (b"bcd", datum(5, channels=1, data=bytes(300)))]
    index = division.read_index(write_lmdb(tmp_path / "mine", content))
    assert index.labels.tolist() == [7, 5]
    assert index.keys.tolist() == [1, 3]
    assert index.values.tolist() == [len(value) for _, value in content]
    assert records.describe_lmdb(str(tmp_path / "mine")) == (2, (1, 2, 2))
