"""Downloads files with known checksums from the first of several mirrors that has them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
from typing import TYPE_CHECKING, Callable, Optional

from lrbench_caffe.errors import InputError, disk_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Called with the name of a file, the bytes downloaded and their total (None: unknown).
Progress = Callable[[str, int, Optional[int]], object]

TIMEOUT = 20.0  # seconds
_BLOCK = 1 << 16  # bytes


class _MirrorError(Exception):
    """A mirror does not have the file. The message is the reason."""


def download(
    mirrors: Sequence[str],
    files: Mapping[str, str],
    folder: str,
    instead: str,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Download the files that are not in a folder.

    The mirrors are tried in turn. A mirror that failed is tried last for the next files. A file
    gets its name only after its checksum was compared. Only one process at a time may download to a
    folder.

    Args:
        mirrors: The addresses of folders with the files, each with a slash at its end.
        files: The MD5 checksum of each file by its name.
        folder: The folder for the files. It must exist.
        instead: What the user can do if no mirror has a file: the end of the message.
        progress: Called with the name of a file, the bytes downloaded and their total (None: the
            mirror did not send it).
        timeout: Seconds that a mirror may take to answer, and to send the next bytes.

    Raises:
        InputError: No mirror has a file, or the file cannot be written. It is not kept.
    """
    order = list(mirrors)
    for name, md5 in files.items():
        path = os.path.join(folder, name)
        if _has_md5(path, md5):
            continue
        partial = os.path.join(folder, ".%s.partial" % name)
        problems = []
        try:
            for mirror in tuple(order):
                try:
                    _fetch(mirror + name, partial, md5, progress, timeout)
                    break
                except _MirrorError as error:
                    problems.append("%s: %s" % (mirror, error))
                    order.remove(mirror)
                    order.append(mirror)
            else:
                raise InputError(
                    "cannot download %s from any of its mirrors (%s): %s"
                    % (name, "; ".join(problems), instead)
                )
            os.rename(partial, path)
        finally:
            if os.path.exists(partial):
                os.remove(partial)


def _has_md5(path: str, md5: str) -> bool:
    digest = hashlib.md5()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == md5


def _fetch(url: str, path: str, md5: str, progress: Progress | None, timeout: float) -> None:
    """Copy a mirror's file to a path. Raise _MirrorError, or InputError if it cannot be written."""
    digest, size, total = hashlib.md5(), 0, None
    blocks = _blocks(url, timeout)
    try:
        with open(path, "wb") as file:
            for block, total in blocks:
                file.write(block)
                digest.update(block)
                size += len(block)
                if progress is not None:
                    progress(os.path.basename(url), size, total)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(path)
        raise InputError(
            "cannot write %s (%s): make room there"
            % (path, disk_problem(error, os.path.dirname(path), total))
        ) from None
    if total is not None and size < total:
        raise _MirrorError("the connection ended after %d of %d bytes" % (size, total))
    if digest.hexdigest() != md5:
        raise _MirrorError("its MD5 checksum is %s, not %s" % (digest.hexdigest(), md5))


def _blocks(url: str, timeout: float) -> Iterator[tuple[bytes, int | None]]:
    """Yield the content of a URL in blocks, each with the size of all. Raise _MirrorError."""
    import urllib.request

    try:
        request = urllib.request.Request(url, headers={"User-Agent": "lrbench"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            total, is_first = response.length, True
            while True:
                block = response.read(_BLOCK)
                if is_first and _is_web_page(response.headers.get_content_type(), block):
                    raise _MirrorError("it sent a web page instead of the file")
                if not block:
                    return
                is_first = False
                yield block, total
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a bad address
        raise _MirrorError(_reason(error, timeout)) from None


def _is_web_page(content_type: str, start: bytes) -> bool:
    return content_type in ("text/html", "application/xhtml+xml") or start.lstrip()[:1] == b"<"


def _reason(error: Exception, timeout: float) -> str:
    """The reason why a mirror cannot be read."""
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return "HTTP status %d (%s)" % (error.code, error.reason)
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.timeout):
        return "no answer within %g seconds" % timeout
    text = getattr(cause, "strerror", None) or str(cause)
    return " ".join(text.split()) or type(cause).__name__
