"""Datasets for Caffe: official files, downloads, LMDBs, mean files, and describing an LMDB."""

import contextlib
import gzip
import hashlib
import http.server
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_caffe import InputError, datasets
from lrbench_caffe.datasets import cifar10 as cifar10_files
from lrbench_caffe.datasets import download, mnist
from lrbench_caffe.errors import fatal_message
from lrbench_caffe.training import records

SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")
needs_caffe = pytest.mark.skipif(
    importlib.util.find_spec("caffe") is None, reason="needs Caffe: run the tests with `make test`"
)
needs_shared = pytest.mark.skipif(
    not os.path.isdir(SHARED), reason="needs the real MNIST and CIFAR-10 in ../shared/data"
)


def needs_tool(name):
    return pytest.mark.skipif(
        shutil.which(name) is None, reason="needs %s, which comes with Caffe" % name
    )


def part(count, shape, seed=0):
    """A Part of random images whose labels go from 0 to 9."""
    random = np.random.RandomState(seed)
    return datasets.Part(
        random.randint(0, 256, (count,) + shape).astype(np.uint8),
        (np.arange(count) % 10).astype(np.uint8),
    )


def idx(array):
    """An array as the content of an idx file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_lmdb(path):
    """The keys and values of an LMDB, in order."""
    import lmdb

    with lmdb.open(path, readonly=True, lock=False) as env, env.begin() as txn:
        return [(bytes(key), bytes(value)) for key, value in txn.cursor()]


def content(files):
    """The content of all files of a dataset, None if a file is missing."""
    if not all(os.path.exists(path) for path in files[:3]):
        return None
    with open(files.mean, "rb") as mean:
        return read_lmdb(files.train), read_lmdb(files.test), mean.read()


def read_by_caffe(path, count, transform, folder):
    """The images and labels that Caffe's Data layer outputs in the test phase."""
    import caffe

    net = folder / "read.prototxt"
    net.write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" transform_param { %s } '
        'data_param { source: "%s" batch_size: %d backend: LMDB } }' % (transform, path, count)
    )
    reader = caffe.Net(str(net), caffe.TEST)  # a name, as the blobs are freed with the net
    reader.forward()
    return reader.blobs["data"].data.copy(), reader.blobs["label"].data.copy()


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A folder with files of CIFAR-10's names, sizes and layout, with simple patterns as images."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate(cifar10_files.TRAIN + cifar10_files.TEST):
        samples = (np.arange(10000)[:, np.newaxis] * (i + 1) + np.arange(3073)).astype(np.uint8)
        samples[:, 0] = np.arange(10000) % 10
        samples.tofile(str(folder / name))
    yield folder.parent
    shutil.rmtree(str(folder.parent))


# Digits


@needs_caffe
def test_a_folder_whose_name_is_not_utf8_can_hold_a_dataset(tmp_path):
    folder = os.path.join(str(tmp_path), os.fsdecode(b"data\xff"))
    files = datasets.convert("digits", folder)
    assert records.describe_lmdb(files.test) == (400, (1, 8, 8))


@needs_caffe
def test_digits_have_1397_training_and_400_test_images_of_8x8_with_40_per_digit(tmp_path):
    files = datasets.convert("digits", str(tmp_path))
    assert files.written
    assert records.describe_lmdb(files.train) == (1397, (1, 8, 8))
    assert records.describe_lmdb(files.test) == (400, (1, 8, 8))
    images, labels = read_by_caffe(files.test, 400, "", tmp_path)
    assert np.bincount(labels.astype(int)).tolist() == [40] * 10
    assert (images.min(), images.max()) == (0, 255)


def test_every_digit_of_scikit_learn_is_in_one_part_with_its_pixels_stretched():
    load_digits = pytest.importorskip(
        "sklearn.datasets", reason="the digits come with scikit-learn"
    ).load_digits
    train, test = datasets.read_digits()
    ours = np.concatenate([train.images, test.images]).reshape(-1, 64) / (255 / 16)
    original = load_digits().data
    assert sorted(map(tuple, np.rint(ours))) == sorted(map(tuple, original))
    again = datasets.read_digits()[1]
    assert np.array_equal(test.images, again.images) and np.array_equal(test.labels, again.labels)


# LMDBs and means


@needs_caffe
def test_caffe_reads_the_written_images_and_labels_in_order(tmp_path):
    train, test = part(2500, (3, 5, 4)), part(30, (3, 5, 4), seed=1)
    files = datasets.write_dataset("tiny", str(tmp_path / "data"), train, test)
    assert [os.path.basename(path) for path in files[:3]] == [
        "tiny_train_lmdb",
        "tiny_test_lmdb",
        "tiny_mean.binaryproto",
    ]
    for path, written in ((files.train, train), (files.test, test)):
        images, labels = read_by_caffe(path, len(written.labels), "", tmp_path)
        assert np.array_equal(images, written.images) and np.array_equal(labels, written.labels)


@needs_caffe
def test_a_padded_image_minus_the_mean_has_a_border_of_zeros(tmp_path):
    train, test = part(200, (3, 8, 8)), part(20, (3, 8, 8), seed=1)
    files = datasets.write_dataset("tiny", str(tmp_path), train, test, pad=4)
    assert os.path.basename(files.test) == "tiny_pad4_test_lmdb"
    assert records.describe_lmdb(files.test) == (20, (3, 16, 16))
    less_mean = test.images - train.images.mean(axis=0)
    subtract = 'mean_file: "%s"' % files.mean
    images, _ = read_by_caffe(files.test, 20, subtract + " crop_size: 8", tmp_path)
    assert np.allclose(images, less_mean, atol=1e-4)
    images, _ = read_by_caffe(files.test, 20, subtract, tmp_path)
    padded = np.pad(less_mean, ((0, 0), (0, 0), (4, 4), (4, 4)), mode="constant")
    assert np.allclose(images, padded, atol=1e-4)


@needs_caffe
@needs_tool("compute_image_mean")
def test_the_mean_file_is_byte_for_byte_that_of_compute_image_mean(tmp_path):
    files = datasets.write_dataset(
        "tiny", str(tmp_path), part(1234, (3, 6, 6)), part(10, (3, 6, 6))
    )
    subprocess.run(
        ["compute_image_mean", "-backend", "lmdb", files.train, str(tmp_path / "mean")],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with open(files.mean, "rb") as ours:
        assert ours.read() == (tmp_path / "mean").read_bytes()


@needs_caffe
@needs_tool("convert_mnist_data")
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_give_the_records_of_caffes_mnist_converter(packed, tmp_path):
    train = part(1500, (1, 28, 28))
    arrays = {"images": train.images[:, 0], "labels": train.labels}
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    subprocess.run(
        ["convert_mnist_data", "-backend", "lmdb", "images", "labels", "theirs"],
        check=True,
        cwd=str(tmp_path),
        stderr=subprocess.DEVNULL,
    )
    read = {}
    for name in arrays:
        raw = (tmp_path / name).read_bytes()
        path = tmp_path / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)
        read[name] = datasets.read_idx(str(path), hashlib.md5(raw).hexdigest())
    ours = datasets.Part(read["images"][:, np.newaxis], read["labels"])
    files = datasets.write_dataset("ours", str(tmp_path), ours, ours)
    assert read_lmdb(files.train) == read_lmdb(str(tmp_path / "theirs"))


@needs_caffe
@needs_tool("convert_cifar_data")
def test_cifar10_gives_the_records_of_caffes_converter(cifar10, tmp_path):
    files = datasets.convert("cifar10", str(tmp_path / "ours"), source=str(cifar10))
    (tmp_path / "theirs").mkdir()
    source, target = str(cifar10 / "cifar-10-batches-bin"), tmp_path / "theirs"
    command = ["convert_cifar_data", source, str(target), "lmdb"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for path in (files.train, files.test):
        ours, theirs = read_lmdb(path), read_lmdb(str(target / os.path.basename(path)))
        assert [(int(key), value) for key, value in ours] == [
            (int(key), value) for key, value in theirs
        ]
    shutil.rmtree(str(tmp_path))


@needs_caffe
@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    count=st.integers(1, 3000),
    pad=st.integers(0, 4),
)
def test_the_map_of_an_lmdb_is_hardly_larger_than_its_file(shape, count, pad, tmp_path_factory):
    """Caffe maps as much address space as the writer."""
    path = str(tmp_path_factory.mktemp("size") / "lmdb")
    images = np.zeros((count, *shape), np.uint8)
    records.write_lmdb(path, images, np.full(count, 255, np.uint8), pad)
    size = os.path.getsize(os.path.join(path, "data.mdb"))
    assert size <= records.lmdb_bytes(images, pad) <= 1.1 * size + 300000
    assert records.describe_lmdb(path)[0] == count
    shutil.rmtree(path)


@needs_caffe
def test_a_full_disk_is_named_with_what_is_needed_and_nothing_is_left(small_disk):
    large = part(3000, (1, 16, 16))
    with pytest.raises(InputError) as error:
        datasets.write_dataset("large", str(small_disk), large, large)
    sentence = "cannot write large to %s (the disk of %s is full: " % (small_disk, small_disk)
    assert str(error.value).startswith(sentence)
    assert " MB are needed and 0.31 MB are free" in str(error.value)
    assert os.listdir(str(small_disk)) == [".large.lock"]


@needs_caffe
@pytest.mark.parametrize("pages", [0, 1, 2, 3, 5, 12, 20])
def test_a_disk_that_is_full_at_any_moment_leaves_nothing(pages, small_disk):
    """LMDB writes its lock file through memory, where a full disk would end the process."""
    tiny = part(300, (1, 8, 8))
    (small_disk / ".tiny.lock").touch()
    free = shutil.disk_usage(str(small_disk)).free
    (small_disk / "other").write_bytes(bytes(free - 4096 * pages))
    with pytest.raises(InputError, match="the disk of .* is full"):
        datasets.write_dataset("tiny", str(small_disk), tiny, tiny)
    assert sorted(os.listdir(str(small_disk))) == [".tiny.lock", "other"]


LIMITED = """
import resource
import sys
sys.path.insert(0, %r)
from lrbench_caffe.errors import InputError
from lrbench_caffe.training import records
import caffe, lmdb
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), used + (1 << 28)))
print(records.describe_lmdb(%r))
try:
    records.check_map(%r)
except InputError as error:
    print(error)
"""


@needs_caffe
def test_an_lmdb_with_a_large_map_is_read_in_a_small_address_space_and_refused_for_caffe(tmp_path):
    import lmdb

    files = datasets.write_dataset("tiny", str(tmp_path), part(20, (1, 8, 8)), part(20, (1, 8, 8)))
    with lmdb.open(files.train, map_size=1 << 40) as database, database.begin(write=True) as change:
        change.put(b"%08d" % 20, change.get(b"%08d" % 19))
    code = LIMITED % (ROOT, files.train, files.train)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    shape, sentence = done.stdout.splitlines()
    assert shape == "(21, (1, 8, 8))"
    assert sentence.startswith("the LMDB %s does not fit into the address space" % files.train)


def test_the_error_of_caffe_without_address_space_names_the_limit():
    line = "db_lmdb.hpp:15] Check failed: mdb_status == 0 (12 vs. 0) Cannot allocate memory"
    message = fatal_message("F1126 10:00:00.000000 7 " + line)
    assert (
        message.startswith("Check failed: mdb_status") and "raise the limit (ulimit -v)" in message
    )


# The official files


def test_cifar10_is_read_from_its_folder_the_parent_folder_or_the_archive(cifar10, tmp_path):
    archive = tmp_path / cifar10_files.ARCHIVE
    with tarfile.open(str(archive), "w:gz", compresslevel=1) as tar:
        tar.add(str(cifar10 / "cifar-10-batches-bin"), "cifar-10-batches-bin")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    train, test = datasets.read_cifar10(str(cifar10 / "cifar-10-batches-bin"))
    assert train.images.shape == (50000, 3, 32, 32) and test.images.shape == (10000, 3, 32, 32)
    second = 10001  # the second record of data_batch_2.bin
    assert train.images[second, 0, 0, :3].tolist() == [3, 4, 5]
    assert train.labels[second] == 1
    for source in (cifar10, archive, tmp_path):
        for samples, expected in zip(datasets.read_cifar10(str(source), md5), (train, test)):
            assert np.array_equal(samples.images, expected.images)
            assert np.array_equal(samples.labels, expected.labels)


def test_the_error_for_a_damaged_cifar10_archive_has_both_checksums(tmp_path):
    archive = tmp_path / cifar10_files.ARCHIVE
    archive.write_bytes(b"half an archive")
    with pytest.raises(InputError) as error:
        datasets.convert("cifar10", str(tmp_path / "to"), source=str(tmp_path))
    for text in (str(archive), cifar10_files.MD5, hashlib.md5(b"half an archive").hexdigest()):
        assert text in str(error.value)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda batch: os.truncate(batch, 30729999), "are 30730000 bytes, but it has 30729999"),
        (lambda batch: _overwrite(batch, 3073 * 7, b"\x0a"), "record 7 has the label 10"),
        (os.remove, "has no data_batch_3.bin"),
    ],
)
def test_the_error_for_a_damaged_cifar10_file_names_it(damage, message, cifar10, tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in cifar10_files.TRAIN + cifar10_files.TEST:
        os.symlink(str(cifar10 / folder.name / name), str(folder / name))
    batch = folder / "data_batch_3.bin"
    batch.unlink()
    shutil.copy(str(cifar10 / folder.name / batch.name), str(batch))
    damage(str(batch))
    with pytest.raises(InputError) as error:
        datasets.convert("cifar10", str(tmp_path / "to"), source=str(tmp_path))
    assert message in str(error.value) and "data_batch_3.bin" in str(error.value)


def _overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("train-images-idx3-ubyte", lambda content: content[:-1]),
        ("train-images-idx3-ubyte.gz", lambda content: gzip.compress(content)[:-200]),
        (
            "train-images-idx3-ubyte.gz",
            lambda content: gzip.compress(content)[:100] + b"\xff" * 300,
        ),
        ("train-images-idx3-ubyte.gz", lambda content: b"<html>404</html>"),
        ("train-images-idx3-ubyte.gz", lambda content: b""),
    ],
)
def test_the_error_for_a_damaged_mnist_file_has_both_checksums(name, damage, tmp_path):
    path = tmp_path / name
    path.write_bytes(damage(idx(part(10, (28, 28)).images)))
    with pytest.raises(InputError) as error:
        datasets.convert("mnist", str(tmp_path / "to"), source=str(tmp_path))
    assert str(path) in str(error.value)
    assert "should be 6bbc9ace898e44ae57da46a324031adb and is " in str(error.value)


def test_an_unpacked_file_with_the_name_of_a_packed_one_is_read(tmp_path):
    """Browsers unpack some downloads and keep the name."""
    array = part(10, (28, 28)).images
    path = tmp_path / "images.gz"
    path.write_bytes(idx(array))
    assert np.array_equal(datasets.read_idx(str(path), hashlib.md5(idx(array)).hexdigest()), array)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="imagenet"), "unknown dataset 'imagenet': choose one of digits, mnist, cifar10"),
        (
            dict(name="mnist", source="/nowhere"),
            "/nowhere has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
        ),
        (dict(name="cifar10", source="/nowhere"), "/nowhere has no data_batch_1.bin or "),
        (dict(name="digits", source="/nowhere"), "leave --from out"),
        (dict(name="digits", pad=-1), "invalid pad=-1"),
    ],
)
def test_invalid_arguments_give_an_error_of_one_line(arguments, message, tmp_path):
    with pytest.raises(InputError) as error:
        datasets.convert(folder=str(tmp_path), **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_in_place_of_the_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to .*file"):
        datasets.convert("digits", str(tmp_path / "file"))


@needs_caffe
@needs_shared
def test_the_real_mnist_is_converted(tmp_path):
    files = datasets.convert("mnist", str(tmp_path), source=os.path.join(SHARED, "mnist"))
    assert records.describe_lmdb(files.train) == (60000, (1, 28, 28))
    assert records.describe_lmdb(files.test) == (10000, (1, 28, 28))
    _, labels = read_by_caffe(files.train, 10, "", tmp_path)
    assert labels.astype(int).tolist() == [int(digit) for digit in "5041921314"]


@needs_caffe
@needs_shared
@pytest.mark.long
def test_the_real_cifar10_is_converted_with_1000_test_images_per_class(tmp_path):
    unpack = [sys.executable, os.path.join(SHARED, "cifar10_binary.py"), str(tmp_path)]
    subprocess.run(unpack, check=True, stdout=subprocess.DEVNULL)
    files = datasets.convert("cifar10", str(tmp_path), source=str(tmp_path), pad=4)
    assert records.describe_lmdb(files.train) == (50000, (3, 40, 40))
    assert records.describe_lmdb(files.test) == (10000, (3, 40, 40))
    _, labels = read_by_caffe(files.test, 10000, "", tmp_path)
    assert np.bincount(labels.astype(int)).tolist() == [1000] * 10
    shutil.rmtree(str(tmp_path))


# Interruption, repetition, progress


@needs_caffe
@pytest.mark.skipif(
    sys.version_info < (3, 8), reason="needs audit hooks, which came with Python 3.8"
)
@pytest.mark.parametrize("before", ["nothing", "another set"])
def test_a_kill_at_any_moment_leaves_no_incomplete_set_and_the_next_run_completes(before, tmp_path):
    train, test = part(3000, (1, 6, 6)), part(1000, (1, 6, 6), seed=1)
    expected = content(datasets.write_dataset("tiny", str(tmp_path / "expected"), train, test))
    older = part(50, (1, 6, 6), seed=2)
    ends = []
    while not ends or ends[-1] != 0:
        folder = tmp_path / str(len(ends))
        write = partial(datasets.write_dataset, "tiny", str(folder))
        files = datasets.paths("tiny", str(folder))
        earlier = content(write(older, older)) if before == "another set" else None
        ends.append(_killed_at(len(ends) + 1, partial(write, train, test)))
        assert content(files) in (None, earlier, expected)
        for path, lmdb in zip(files[:2], expected):
            assert before == "another set" or not os.path.exists(path) or read_lmdb(path) == lmdb
        write(train, test)
        assert content(files) == expected
        names = [os.path.basename(path) for path in files[:3]]
        assert sorted(os.listdir(str(folder))) == sorted([".tiny.lock", *names])
    assert len(ends) > 15 and set(ends[:-1]) == {signal.SIGKILL}


def _killed_at(step, action):
    """Run an action in a process that is killed at its step-th file operation or progress report.

    Returns the signal, or 0 if the action ends before.
    """
    calls = ("progress", "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
    left = [step]

    def count(event="progress", *_):
        if event in calls:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        try:
            sys.addaudithook(count)
            action(progress=lambda *_: count())
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@needs_caffe
def test_ctrl_c_leaves_only_the_lock(tmp_path):
    def interrupt(name, done, total):
        if done > 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        datasets.convert("digits", str(tmp_path), progress=interrupt)
    assert os.listdir(str(tmp_path)) == [".digits.lock"]
    assert datasets.convert("digits", str(tmp_path)).written


@needs_caffe
def test_a_complete_set_is_kept_and_an_incomplete_one_is_written_again(tmp_path):
    files = datasets.convert("digits", str(tmp_path))
    before = content(files)
    times = [os.stat(path).st_mtime_ns for path in files[:3]]
    assert datasets.convert("digits", str(tmp_path)) == files._replace(written=False)
    assert [os.stat(path).st_mtime_ns for path in files[:3]] == times
    os.remove(files.mean)
    assert datasets.convert("digits", str(tmp_path)).written
    assert content(files) == before


@needs_caffe
def test_of_two_simultaneous_conversions_only_one_writes(tmp_path):
    code = (
        "from lrbench_caffe import datasets; print(datasets.convert('digits', %r).written)"
        % str(tmp_path / "data")
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            universal_newlines=True,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        )
        for _ in range(2)
    ]
    assert sorted(process.communicate()[0].split()[-1] for process in processes) == [
        "False",
        "True",
    ]


@needs_caffe
def test_progress_is_reported_for_each_lmdb_up_to_its_samples(tmp_path):
    reports = []
    datasets.convert("digits", str(tmp_path), progress=lambda *report: reports.append(report))
    assert reports == [
        ("digits_train_lmdb", 1000, 1397),
        ("digits_train_lmdb", 1397, 1397),
        ("digits_test_lmdb", 400, 400),
    ]


# Downloads from local web servers


class Mirror(NamedTuple):
    """A web server, the folder that it serves, and the paths that it was asked for."""

    url: str
    folder: Path
    requests: list


@pytest.fixture
def mirrors(tmp_path, monkeypatch):
    """Three mirrors. The names of some files make them misbehave."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    released = threading.Event()
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("first", "second", "third"):
            (tmp_path / name).mkdir()
            server = stack.enter_context(_serve(tmp_path / name, released))
            servers.append(server)
        yield servers
        released.set()


@contextlib.contextmanager
def _serve(folder, released):
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

        def do_GET(self):
            requests.append(self.path)
            trick = folder / (self.path[1:] + ".trick")
            if not trick.exists():
                super().do_GET()
                return
            kind = trick.read_text()
            if kind == "silent":
                released.wait()
                return
            self.send_response(200)
            if kind == "page":
                self.send_header("Content-Type", "text/html; charset=utf-8")
                content = b"<html>Please log in</html>"
            elif kind == "page without a type":
                content = b"\n<!DOCTYPE html><title>Moved</title>"
            elif kind == "short":
                self.send_header("Content-Length", "5")
                content = b"who"
            self.end_headers()
            self.wfile.write(content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield Mirror("http://127.0.0.1:%d/" % server.server_address[1], folder, requests)
        server.shutdown()


def fetch(mirrors, files, folder, **options):
    """Download files, given as their contents by name, to a folder that is made if needed."""
    folder.mkdir(exist_ok=True)
    md5s = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    urls = [mirror.url for mirror in mirrors]
    download.download(urls, md5s, str(folder), "bring it yourself", **options)


def test_a_download_is_checked_reported_and_kept(mirrors, tmp_path):
    packed = gzip.compress(bytes(100000) + b"end")
    (mirrors[0].folder / "images.gz").write_bytes(packed)
    reports = []
    for _ in range(2):  # the second time, the file is there
        fetch(
            mirrors, {"images.gz": packed}, tmp_path / "to", progress=lambda *r: reports.append(r)
        )
    assert (tmp_path / "to" / "images.gz").read_bytes() == packed
    assert reports[-1] == ("images.gz", len(packed), len(packed))
    assert [len(mirror.requests) for mirror in mirrors] == [1, 0, 0]
    assert os.listdir(str(tmp_path / "to")) == ["images.gz"]


@pytest.mark.parametrize(
    "trick, reason",
    [
        ("page", "it sent a web page instead of the file"),
        ("page without a type", "it sent a web page instead of the file"),
        ("short", "the connection ended after 3 of 5 bytes"),
        (None, "HTTP status 404 (File not found)"),
        ("damaged", "its MD5 checksum is %s, not " % hashlib.md5(b"half").hexdigest()),
    ],
)
def test_a_mirror_without_the_file_is_skipped_and_then_tried_last(trick, reason, mirrors, tmp_path):
    files = {"labels.gz": b"whole", "images.gz": b"pixels"}
    first, second, third = mirrors
    if trick == "damaged":
        (first.folder / "labels.gz").write_bytes(b"half")
    elif trick:
        (first.folder / "labels.gz.trick").write_text(trick)
    with pytest.raises(InputError) as error:
        fetch(mirrors, files, tmp_path / "to")
    sentence = str(error.value)
    assert sentence.startswith("cannot download labels.gz from any of its mirrors (%s" % first.url)
    assert "%s: %s" % (first.url, reason) in sentence
    assert all("%s: HTTP status 404" % mirror.url in sentence for mirror in (second, third))
    assert sentence.endswith(": bring it yourself") and "\n" not in sentence
    assert os.listdir(str(tmp_path / "to")) == []
    for name, content in files.items():
        (third.folder / name).write_bytes(content)
        (first.folder / name).write_bytes(b"another version")
    fetch(mirrors, files, tmp_path / "to")
    for name, content in files.items():
        assert (tmp_path / "to" / name).read_bytes() == content
    assert third.requests[-2:] == ["/labels.gz", "/images.gz"]
    assert "/images.gz" not in first.requests + second.requests


def test_a_mirror_that_does_not_answer_is_given_up(mirrors, tmp_path):
    (mirrors[0].folder / "images.gz.trick").write_text("silent")
    with pytest.raises(InputError, match="%s: no answer within 0.1 seconds" % mirrors[0].url):
        fetch(mirrors[:1], {"images.gz": b"whole"}, tmp_path / "to", timeout=0.1)


def test_a_mirror_that_cannot_be_reached_is_skipped(mirrors, tmp_path):
    (mirrors[0].folder / "images.gz").write_bytes(b"whole")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        dead = Mirror("http://127.0.0.1:%d/" % unused.getsockname()[1], tmp_path, [])
        with pytest.raises(InputError, match="%s: Connection refused" % dead.url):
            fetch([dead], {"images.gz": b"whole"}, tmp_path / "to")
        fetch([dead, mirrors[0]], {"images.gz": b"whole"}, tmp_path / "to")
    assert (tmp_path / "to" / "images.gz").read_bytes() == b"whole"


@pytest.mark.parametrize("url", ["http://[:1/", "http://127.0.0.1:port/", "not an address"])
def test_an_invalid_address_of_a_mirror_is_a_reason(url, mirrors, tmp_path):
    with pytest.raises(InputError) as error:
        fetch([Mirror(url, tmp_path, [])], {"images.gz": b"whole"}, tmp_path / "to")
    assert str(error.value).startswith(
        "cannot download images.gz from any of its mirrors (%s: " % url
    )


def test_a_damaged_file_and_a_partial_one_are_downloaded_again(mirrors, tmp_path):
    (mirrors[0].folder / "images.gz").write_bytes(b"whole")
    (tmp_path / "images.gz").write_bytes(b"half")
    (tmp_path / ".images.gz.partial").write_bytes(b"left by a download that was killed")
    fetch(mirrors, {"images.gz": b"whole"}, tmp_path)
    assert (tmp_path / "images.gz").read_bytes() == b"whole"
    assert not (tmp_path / ".images.gz.partial").exists()


def test_a_download_that_fills_the_disk_names_the_disk_and_tries_no_other_mirror(
    mirrors, small_disk
):
    content = bytes(500000)
    for mirror in mirrors:
        (mirror.folder / "images.gz").write_bytes(content)
    with pytest.raises(InputError) as error:
        fetch(mirrors, {"images.gz": content}, small_disk)
    for text in ("the disk of %s is full" % small_disk, "0.5 MB are needed", "make room"):
        assert text in str(error.value)
    assert os.listdir(str(small_disk)) == []
    assert [len(mirror.requests) for mirror in mirrors] == [1, 0, 0]


@pytest.mark.parametrize(
    "name, files",
    [
        ("mnist", [name + ".gz" for name in mnist.FILES]),
        ("cifar10", ["cifar-10-binary.tar.gz"]),
    ],
)
def test_the_error_of_a_failed_download_names_the_mirrors_the_files_and_the_command(
    name, files, mirrors, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    official = {"mnist": mnist, "cifar10": cifar10_files}[name]
    monkeypatch.setattr(official, "MIRRORS", tuple(mirror.url for mirror in mirrors))
    with pytest.raises(InputError) as error:
        datasets.convert(name, str(tmp_path / "to"), pad=4)
    sentence = str(error.value)
    for text in (
        [mirror.url for mirror in mirrors]
        + files
        + ["lrbench data %s --pad 4 --from DIR --to " % name]
    ):
        assert text in sentence
    assert os.listdir(str(tmp_path / "to")) == [".%s_pad4.lock" % name]


# The content of an LMDB


@needs_caffe
def test_an_lmdb_is_described_with_the_range_of_its_first_labels(tmp_path):
    train = part(12000, (1, 8, 8))
    train.labels[5], train.labels[11000] = 77, 99
    files = datasets.write_dataset("tiny", str(tmp_path), train, train)
    assert records.describe_lmdb(files.train) == (12000, (1, 8, 8))
    assert records.label_range(files.train) == (0, 77), "it does not read all of a large LMDB"
    assert records.label_range(files.train, limit=3) == (0, 2)
    assert records.label_range(files.train, limit=12000) == (0, 99)


@needs_caffe
def test_the_shape_of_encoded_images_is_read_from_their_header(tmp_path):
    import io

    from caffe.proto import caffe_pb2
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(png, "png")
    _write_lmdb(
        tmp_path, caffe_pb2.Datum(encoded=True, data=png.getvalue(), label=3).SerializeToString()
    )
    assert records.describe_lmdb(str(tmp_path)) == (1, (3, 7, 9))
    assert records.label_range(str(tmp_path)) == (3, 3)


@needs_caffe
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: None, "cannot be read as an LMDB"),
        (
            lambda folder: (folder / "data.mdb").write_bytes(b"no LMDB" * 10000),
            "cannot be read as an LMDB",
        ),
        (lambda folder: _write_lmdb(folder), "holds no samples"),
        (lambda folder: _write_lmdb(folder, b"\xffno Datum"), "is not a Datum"),
        (lambda folder: _write_lmdb(folder, b"\x22\x02xx\x28\x01\x38\x01"), "but is not one"),
        (
            lambda folder: (
                _write_lmdb(folder, bytes(100000)),
                os.truncate(str(folder / "data.mdb"), 40960),
            ),
            "is damaged",
        ),
    ],
)
def test_a_folder_that_is_not_an_lmdb_of_samples_is_an_input_error(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(InputError) as error:
        records.describe_lmdb(str(tmp_path))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def _write_lmdb(folder, *values):
    import lmdb

    with lmdb.open(str(folder)) as env, env.begin(write=True) as txn:
        for i, value in enumerate(values):
            txn.put(b"%08d" % i, value)


@needs_caffe
def test_describing_an_lmdb_writes_nothing_into_its_folder(tmp_path):
    files = datasets.write_dataset("tiny", str(tmp_path), part(20, (1, 8, 8)), part(20, (1, 8, 8)))
    os.remove(os.path.join(files.train, "lock.mdb"))
    assert records.describe_lmdb(files.train) == (20, (1, 8, 8))
    assert os.listdir(files.train) == ["data.mdb"]


def test_importing_datasets_loads_neither_caffe_nor_lmdb():
    code = (
        "import sys, lrbench_caffe.datasets; "
        "print([name for name in ('caffe', 'lmdb', 'sklearn') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert out.stdout.strip() == "[]"
