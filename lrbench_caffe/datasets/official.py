"""The official files of a dataset: where they are, and whether they are whole."""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import TYPE_CHECKING

from lrbench_caffe.datasets import download
from lrbench_caffe.datasets.publishing import locked
from lrbench_caffe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrbench_caffe.datasets.download import Progress


def fetch(
    name: str,
    mirrors: Sequence[str],
    files: Mapping[str, str],
    command: str,
    progress: Progress | None,
) -> str:
    """Download the official files of a dataset; return the folder in the user's cache.

    Args:
        name: The dataset.
        mirrors: The addresses of folders with the files.
        files: The MD5 checksum of each file by its name.
        command: The command that reads the files from a folder DIR, for a message.
        progress: Called with "downloading FILE", the bytes downloaded and their total.
    """

    def downloading(file: str, done: int, total: int | None) -> None:
        assert progress is not None
        progress("downloading " + file, done, total)

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    downloads = os.path.join(cache, "lrbench")
    instead = "try again later, or put %s into a folder DIR, packed or unpacked, and run `%s`" % (
        " and ".join(", ".join(files).rsplit(", ", 1)),
        command,
    )
    with locked(downloads, name, "read the official files from another folder with --from DIR"):
        download.download(mirrors, files, downloads, instead, progress and downloading)
    return downloads


def find(folder: str, names: Sequence[str], dataset: str) -> str:
    """The path of the first of these files that a folder has."""
    for name in names:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise InputError(
        "%s has no %s: name the folder of %s's official files with --from, or leave --from out to "
        "download them" % (folder, " or ".join(names), dataset)
    )


def content(path: str) -> bytes:
    """Read a file; InputError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError("cannot read %s: %s" % (path, error.strerror)) from None


def unpacked(path: str) -> bytes:
    """The content of a file that may be packed with gzip.

    Of a damaged file it is the beginning, whose checksum will be wrong.
    """
    packed = content(path)
    if packed[:2] != b"\x1f\x8b":  # a browser may have unpacked it and kept its name
        return packed
    parts = []
    unpack = zlib.decompressobj(wbits=31)
    try:
        for first in range(0, len(packed), 1 << 16):
            parts.append(unpack.decompress(packed[first : first + (1 << 16)]))
    except zlib.error:
        pass
    return b"".join(parts)


def check_md5(path: str, content: bytes, expected: str, condition: str = "") -> None:
    """Raise InputError unless a file's content has the expected checksum."""
    md5 = hashlib.md5(content).hexdigest()
    if md5 != expected:
        raise InputError(
            "%s is damaged or another file: %sits MD5 checksum should be %s and is %s: download it "
            "again" % (path, condition, expected, md5)
        )
