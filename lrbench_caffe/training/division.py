"""Dividing an LMDB of Datum messages: its labels, and copies of some of its records."""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection


class Index(NamedTuple):
    """The records of an LMDB of Datum messages, in its order.

    Attributes:
        labels: The labels.
        keys: The sizes of the keys in bytes.
        values: The sizes of the Datum messages in bytes.
    """

    labels: np.ndarray
    keys: np.ndarray
    values: np.ndarray

    def file_bytes(self, chosen: np.ndarray) -> int:
        """Return an upper bound of the size of an LMDB of the chosen records."""
        return records.file_bytes(self.keys[chosen], self.values[chosen])


def read_index(path: str, progress: Callable[[str, int, int], object] | None = None) -> Index:
    """Read the label and the size of each record of an LMDB of Datum messages.

    A process of its own reads, because LMDB ends the process if some pages are damaged.

    Args:
        path: The LMDB's folder.
        progress: Called with what is done, the records read so far and their total.

    Raises:
        InputError: As :func:`describe_lmdb`; or a record does not have exactly one label.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_index, args=(path, sender), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Index):
                return message
            if progress is not None:
                progress(*message)
    except EOFError:
        child.join()
        raise InputError(
            "the LMDB %s is damaged: LMDB itself fails when it reads all records (exit status %s): "
            "make it again" % (path, child.exitcode)
        ) from None
    finally:
        child.terminate()
        child.join()
        receiver.close()


def _send_index(path: str, sender: Connection) -> None:
    """Send progress, then the index or the error. LMDB may end the process meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where LMDB writes why it fails
    faulthandler.disable()
    try:
        sender.send(_index(path, lambda *report: sender.send(report)))
    except Exception as error:
        sender.send(error)


def _index(path: str, progress: Callable[[str, int, int], object]) -> Index:
    with records.open_lmdb(path) as (database, cursor):
        samples = database.stat()["entries"]
        rows = np.zeros((3, samples), np.int64)
        read = 0
        for key, value in itertools.islice(cursor, samples):
            rows[:, read] = _label(cursor, path), len(key), len(value)
            read += 1
            if read % records.COMMIT_EVERY == 0 or read == samples:
                progress("reading %s" % os.path.basename(path), read, samples)
        if read < samples or cursor.next():
            raise InputError(
                "the LMDB %s is damaged: it should have %d records, and has %s: make it again"
                % (path, samples, read if read < samples else "more")
            )
    return Index(*rows)


def _label(cursor: Any, path: str) -> int:
    """The label of a record. Raise InputError if it does not have exactly one label."""
    datum = records.read_datum(cursor, path)
    if not datum.HasField("label"):
        raise InputError(
            "the record %r of the LMDB %s does not have a label: make the LMDB with the class of "
            "each sample as its label" % (bytes(cursor.key()), path)
        )
    # Of a field that is there twice, the message has the last value, which makes it shorter.
    if datum.ByteSize() < len(cursor.value()):
        raise InputError(
            "the record %r of the LMDB %s has more than one label, and Caffe reads only one: make "
            "the LMDB with one label for each sample" % (bytes(cursor.key()), path)
        )
    return datum.label


def copy_chosen(
    source: str,
    target: str,
    index: Index,
    chosen: np.ndarray,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Copy records of an LMDB, byte for byte, to a new LMDB.

    Args:
        source: The LMDB's folder.
        target: The folder of the new LMDB, which must not exist.
        index: The index of the LMDB.
        chosen: Whether each record is copied, a bool array of shape (records,).
        progress: Called with the new folder's name, the records written so far and their total.

    Raises:
        InputError: As :func:`describe_lmdb`; or the address space of the process is too small.
        lmdb.Error: The new LMDB cannot be written.
        OSError: As lmdb.Error.
    """
    content = _chosen_records(source, chosen)
    records.write_records(target, index.file_bytes(chosen), int(chosen.sum()), content, progress)


def _chosen_records(path: str, chosen: np.ndarray) -> Iterator[tuple[Any, Any]]:
    with records.open_lmdb(path) as (database, cursor):
        if database.stat()["entries"] != len(chosen):
            raise InputError(
                "the LMDB %s was changed while it was read: wait until it is complete" % path
            )
        yield from itertools.compress(cursor, chosen)
