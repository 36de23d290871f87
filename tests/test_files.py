"""Written files are complete or not there, and only regular files are replaced."""

import contextlib
import ctypes
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from lrbench_caffe import files
from lrbench_caffe.errors import InputError

MS_RDONLY, MS_REMOUNT, MS_BIND, MNT_DETACH = 1, 32, 4096, 2


def write(path, data=b"new"):
    files.write(str(path), data, "report")


def mode(path):
    return stat.S_IMODE(os.stat(str(path)).st_mode)


@contextlib.contextmanager
def ordinary_user():
    """Be a user who is not root, and who owns nothing, within the block."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.setresuid(65534, 65534, 0)
    except OSError as error:
        pytest.skip("cannot switch to an ordinary user: %s" % error)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_folder():
    """A folder that an ordinary user can reach; pytest's own folders belong to this user only."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)
    yield Path(folder)
    os.chmod(folder, 0o777)
    shutil.rmtree(folder)


@pytest.fixture
def mount():
    """Mount files and folders: mount(source, target, flags). They are unmounted at the end."""
    libc, targets = ctypes.CDLL(None, use_errno=True), []

    def do_mount(source, target, flags):
        names = os.fsencode(str(source)), os.fsencode(str(target))
        if libc.mount(*names, None, flags, None):
            pytest.skip("only root can mount: %s" % os.strerror(ctypes.get_errno()))
        targets.append(names[1])

    yield do_mount
    for target in reversed(targets):
        libc.umount2(target, MNT_DETACH)


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").read_bytes() == b"new" and mode(tmp_path / "out") == 0o640


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    out = tmp_path / "out"
    out.write_text("a longer old text")
    out.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(str(out), 1234, 5678)
    before = out.stat()
    write(out)
    after = out.stat()
    assert out.read_bytes() == b"new" and mode(out) == 0o604
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert os.listdir(str(tmp_path)) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(error, old, tmp_path):
    out = tmp_path / "out"
    if old:
        out.write_text(old)
    with pytest.raises(error), files.open_output(str(out)) as file:
        file.write(b"half")
        file.flush()
        assert len(os.listdir(str(tmp_path))) == (2 if old else 1)
        raise error
    assert [path.read_text() for path in tmp_path.iterdir()] == ([old] if old else [])


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(small_disk):
    (small_disk / "out").write_text("old")
    for path in (small_disk / "out", small_disk / "other"):
        with pytest.raises(InputError, match=r"report to .* \(No space left on device\): name"):
            write(path, bytes(400000))
    assert [path.read_text() for path in small_disk.iterdir()] == ["old"]


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_link_stays_a_link_and_its_target_is_replaced(target_exists, tmp_path):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "target"
    if target_exists:
        target.write_text("old")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("far/target")
    write(tmp_path / "first")
    assert os.readlink(str(tmp_path / "first")) == "second"
    assert os.readlink(str(tmp_path / "second")) == "far/target"
    assert not target.is_symlink() and target.read_bytes() == b"new"
    assert sorted(os.listdir(str(tmp_path))) == ["far", "first", "second"]
    assert os.listdir(str(tmp_path / "far")) == ["target"]


def test_a_named_pipe_is_written_into(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(str(pipe))
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert received == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_behind_a_link_is_written_into(tmp_path):
    controller, terminal = os.openpty()
    (tmp_path / "link").symlink_to(os.ttyname(terminal))
    write(tmp_path / "link")
    assert os.read(controller, 100) == b"new"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link").is_char_device()
    os.close(controller)
    os.close(terminal)


def test_an_open_descriptor_is_written_into_where_it_stands(tmp_path):
    """As in (echo before; lrbench db export /dev/stdout; echo after) > file."""
    with open(str(tmp_path / "file"), "wb", buffering=0) as file:
        (tmp_path / "link").symlink_to("/proc/self/fd/%d" % file.fileno())
        file.write(b"before ")
        write("/dev/fd/%d" % file.fileno(), b"first ")
        write(tmp_path / "link", b"second ")
        file.write(b"after")
    assert (tmp_path / "file").read_bytes() == b"before first second after"
    assert (tmp_path / "link").is_symlink()


def test_standard_output_is_recognized_behind_links(tmp_path):
    (tmp_path / "link").symlink_to("/dev/stdout")
    assert files.is_standard_output("/dev/stdout") and files.is_standard_output("/proc/self/fd/1")
    assert files.is_standard_output(str(tmp_path / "link"))
    for path in ("/dev/stderr", str(tmp_path / "file"), ""):
        assert not files.is_standard_output(path)


def test_a_pipe_without_a_reader_is_not_an_error_of_the_input():
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        write("/dev/fd/%d" % writer)
    os.close(writer)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("folder", "Is a directory"),
        ("new/", "No such file or directory"),
        ("no/file", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_path_that_is_not_a_file_is_refused_and_stays(name, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(str(tmp_path)))
    path = "%s/%s" % (tmp_path, name)
    with pytest.raises(InputError) as error:
        write(path)
    assert str(error.value) == "cannot write the report to %s (%s): name another file" % (
        path,
        reason,
    )
    assert sorted(os.listdir(str(tmp_path))) == before


def test_a_file_that_is_protected_from_writing_is_not_replaced(open_folder):
    out = open_folder / "out"
    out.write_text("old")
    out.chmod(0o444)
    with ordinary_user():
        for refused in (lambda: write(out), lambda: files.check_writable(str(out))):
            with pytest.raises((InputError, OSError), match="Permission denied"):
                refused()
    assert out.read_text() == "old" and os.listdir(str(open_folder)) == ["out"]


def test_a_writable_file_in_a_protected_folder_is_overwritten_when_all_is_there(open_folder):
    out = open_folder / "out"
    out.write_text("a longer old text")
    out.chmod(0o666)
    open_folder.chmod(0o555)
    with ordinary_user():
        files.check_writable(str(out))
        with pytest.raises(ValueError), files.open_output(str(out)) as file:
            file.write(b"half")
            raise ValueError
        assert out.read_text() == "a longer old text"
        write(out)
        with pytest.raises(InputError, match="Permission denied"):
            write(open_folder / "other")
    assert out.read_text() == "new" and mode(out) == 0o666
    assert os.listdir(str(open_folder)) == ["out"]


def test_a_mounted_file_is_overwritten(tmp_path, mount):
    """As `docker run -v $PWD/out:/out` has it, in a writable folder and in one that is not."""
    outside, folder = tmp_path / "outside", tmp_path / "inside"
    out = folder / "out"
    folder.mkdir()
    outside.write_text("a longer old text")
    out.write_text("hidden by the mount")
    mount(folder, folder, MS_BIND)
    mount(outside, out, MS_BIND)
    write(out, b"first")
    assert outside.read_text() == "first"
    mount(folder, folder, MS_BIND | MS_REMOUNT | MS_RDONLY)
    write(out, b"second text")
    assert outside.read_text() == "second text" and os.listdir(str(folder)) == ["out"]


def test_a_path_is_checked_without_being_opened(tmp_path):
    (tmp_path / "dangling").symlink_to("no/target")
    os.mkfifo(str(tmp_path / "pipe"))
    for name in ("new", "pipe"):
        files.check_writable(str(tmp_path / name))
    files.check_writable("/dev/stdout")
    for name in ("", "dangling", "no/file", "new/"):
        with pytest.raises(OSError):
            files.check_writable(os.path.join(str(tmp_path), name))
    assert sorted(os.listdir(str(tmp_path))) == ["dangling", "pipe"]
