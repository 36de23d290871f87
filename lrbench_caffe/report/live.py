"""The live page: a small HTTP server that shows the report of a database and only reads it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from lrbench_caffe import database
from lrbench_caffe.database import server as private_server
from lrbench_caffe.display import console
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.report import content, page

if TYPE_CHECKING:
    from lrbench_caffe.ranking import Criterion

CACHE_SECONDS = 1.0  # the database is read at most this often, for all browsers together
MIN_GZIP_BYTES = 1000  # a shorter body is sent as it is


def serve(
    filters: dict[str, str | None], criterion: Criterion, host: str, port: int, dsn: str | None
) -> None:
    """Serve the live page of a database until Ctrl-C or SIGTERM.

    Args:
        filters: Which trials to show, see :func:`lrbench_caffe.report.content.load`.
        criterion: How the policies are ranked.
        host: The name or address to listen on.
        port: The port to listen on; 0 for any free one.
        dsn: The database; None for the one in LRBENCH_DSN, else the private server's.

    Raises:
        InputError: The study in the filters does not exist, or the database or the address cannot
            be used.
    """
    source = ContentSource(filters, criterion, dsn)
    source.latest()  # reports an error in the filters before the server listens
    with open_server(source, host, port) as listening:
        shown_host = "[%s]" % host if ":" in host else host
        console.print_line(
            "http://%s:%d/ (press Ctrl-C to stop)" % (shown_host, listening.server_port)
        )
        # shutdown() waits for serve_forever(), so it cannot be called in this thread.
        signal.signal(
            signal.SIGTERM, lambda *_: threading.Thread(target=listening.shutdown).start()
        )
        with contextlib.suppress(KeyboardInterrupt):
            listening.serve_forever(poll_interval=0.2)


def open_server(source: ContentSource, host: str, port: int) -> Server:
    """Return a server that listens on an address; its ``serve_forever`` answers requests.

    Raises:
        InputError: The address is unknown or already in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return Server(family, (str(address[0]), int(address[1])), source, host)
    except OSError as error:
        raise InputError(
            "cannot listen on %s, port %d (%s): give another address with --host and --port"
            % (host, port, error.strerror or error)
        ) from None


class ContentSource:
    """The newest content of the page, shared by all requests.

    The database is read at most once in CACHE_SECONDS, by one thread at a time.
    """

    def __init__(
        self, filters: dict[str, str | None], criterion: Criterion, dsn: str | None
    ) -> None:
        self._filters, self._criterion = filters, criterion
        # The private server is started here and not on each request: if its owner stops it
        # later, a browser that is still open must not start it again.
        self._store = database.Store(
            dsn or os.environ.get("LRBENCH_DSN") or private_server.start(), read_only=True
        )
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._content: dict[str, Any] = {}
        self._tag = ""

    def latest(self) -> tuple[dict[str, Any], str]:
        """Return the content and its tag, a text that changes when the content does.

        Raises:
            DatabaseUnavailable: The database does not answer.
            InputError: The study in the filters does not exist, or the database refuses the query.
        """
        with self._lock:
            if time.monotonic() - self._read_at > CACHE_SECONDS:
                self._refresh()
                self._read_at = time.monotonic()
            return self._content, self._tag

    def _refresh(self) -> None:
        newest = content.load(self._store, self._filters, self._criterion)
        created = newest.pop("created")  # alone, a later time is not a change
        tag = hashlib.sha256(page.as_json(newest).encode()).hexdigest()[:24]
        if tag != self._tag:
            self._content, self._tag = dict(newest, created=created), tag


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers ``GET /`` with the page and ``GET /content.json`` with its newest content."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "lrbench", ""
    server: Server

    def do_GET(self) -> None:
        """Answer one request."""
        if not self._is_own_host():
            self._answer(403, "text/plain", b"Unknown host name: use this server's address.\n")
            return
        if self.path not in ("/", "/content.json"):
            self._answer(404, "text/plain", b"Not found: only / and /content.json exist.\n")
            return
        try:
            newest, tag = self.server.source.latest()
        except (DatabaseUnavailable, InputError) as error:
            self._answer(503, "text/plain", str(error).encode())
            return
        if self.path == "/":
            self._answer(200, "text/html", page.render(newest, live=True).encode())
        elif self.headers.get("If-None-Match") == '"%s"' % tag:
            self._answer(304, "application/json", b"", tag)
        else:
            self._answer(200, "application/json", page.as_json(newest).encode(), tag)

    do_HEAD = do_GET

    def _is_own_host(self) -> bool:
        """Whether the request's Host is an address or one of this server's names.

        This stops DNS rebinding, in which a page from elsewhere points its own name at this
        server: the browser then sends that other name.
        """
        host = self.headers.get("Host", "").lower()
        if host.startswith("["):
            name = host[1 : host.find("]")]
        else:
            name = host.rpartition(":")[0] or host
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name in self.server.own_names

    def _answer(self, status: int, media_type: str, body: bytes, tag: str | None = None) -> None:
        headers = {
            "Content-Type": media_type + "; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if len(body) > MIN_GZIP_BYTES and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 5)
            headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body))
        if tag:
            headers["ETag"] = '"%s"' % tag
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Do nothing: the terminal of a training is not the place for a log of requests."""


class Server(http.server.ThreadingHTTPServer):
    """The HTTP server of one content source.

    Attributes:
        source: The content that it serves.
        own_names: The host names, beside addresses, by which browsers may ask for it.
    """

    daemon_threads = True

    def __init__(
        self, family: int, address: tuple[str, int], source: ContentSource, host: str
    ) -> None:
        self.address_family = family
        self.source = source
        self.own_names = {"localhost", host.lower(), socket.gethostname().lower()}
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the error of a request, but ignore a browser that closed its connection."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)
