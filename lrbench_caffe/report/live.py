"""The report's page live from the database: a small HTTP server that only reads."""

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

from lrbench_caffe import database
from lrbench_caffe.database import server
from lrbench_caffe.display import console
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.report import content, page

FRESH = 1.0  # seconds that what was read of the database is served again, however many look


def serve(filters, criterion, host, port, dsn):
    """Serve the page on these trials until Ctrl-C.  Raises InputError when the database or the address cannot be used."""
    source = Source(filters, criterion, dsn)
    source.latest()  # says now what is wrong with the filters
    with open_server(source, host, port) as listening:
        console.print_line(
            "http://%s:%d/ - Ctrl-C ends it"
            % ("[%s]" % host if ":" in host else host, listening.server_port)
        )
        signal.signal(
            signal.SIGTERM, lambda *_: threading.Thread(target=listening.shutdown).start()
        )
        try:
            listening.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass


def open_server(source, host, port):
    """The server, which listens but does not serve yet."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = type("Server", (_Server,), {"address_family": family})(address[:2], Handler)
    except OSError as error:
        raise InputError(
            "cannot listen on %s, port %d (%s): name another with --host and --port"
            % (host, port, error.strerror or error)
        ) from None
    listening.source, listening.names = (
        source,
        {"localhost", host.lower(), socket.gethostname().lower()},
    )
    return listening


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(
            sys.exc_info()[1], (ConnectionError, socket.timeout)
        ):  # a browser that went away is no error
            super().handle_error(request, client_address)


class Source:
    """The newest content of the page: read from the database at most once in FRESH seconds, by one thread at a time."""

    def __init__(self, filters, criterion, dsn):
        self._filters, self._criterion = filters, criterion
        # Asked for once: a private server that is stopped later is not started again by somebody who only looks.
        self._store = database.Store(
            dsn or os.environ.get("LRBENCH_DSN") or server.start(), read_only=True
        )
        self._lock = threading.Lock()
        self._read, self._content, self._tag = float("-inf"), None, None

    def latest(self):
        """(content, a text that changes when it does).  Raises DatabaseUnavailable."""
        with self._lock:
            if time.monotonic() - self._read > FRESH:
                found = content.load(self._store, self._filters, self._criterion)
                made = found.pop("made")
                tag = hashlib.sha256(page.as_json(found).encode()).hexdigest()[:24]
                if tag != self._tag:
                    self._content, self._tag = dict(found, made=made), tag
                self._read = time.monotonic()
            return self._content, self._tag


class Handler(http.server.BaseHTTPRequestHandler):
    """GET / is the page and GET /content.json what it shows now; there is nothing else."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "lrbench", ""

    def do_GET(self):
        """Answer one request."""
        if not self._known_host():
            self._answer(
                403, "text/plain", b"This name is not one of the server's: use its address.\n"
            )
            return
        if self.path not in ("/", "/content.json"):
            self._answer(404, "text/plain", b"There is / and /content.json.\n")
            return
        try:
            found, tag = self.server.source.latest()
        except (DatabaseUnavailable, InputError) as error:
            self._answer(503, "text/plain", str(error).encode())
            return
        if self.path == "/":
            self._answer(200, "text/html", page.render(found, live=True).encode())
        elif self.headers.get("If-None-Match") == '"%s"' % tag:
            self._answer(304, "application/json", b"", tag)
        else:
            self._answer(200, "application/json", page.as_json(found).encode(), tag)

    do_HEAD = do_GET

    def _known_host(self):
        """Whether the request names this server by an address or its own name.

        A page elsewhere whose name was pointed here afterwards (DNS rebinding) sends that name.
        """
        name = self.headers.get("Host", "").lower()
        name = name[1 : name.find("]")] if name.startswith("[") else name.rpartition(":")[0] or name
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name in self.server.names

    def _answer(self, status, kind, body, tag=None):
        if len(body) > 1000 and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, packed = gzip.compress(body, 5), True
        else:
            packed = False
        self.send_response(status)
        headers = {
            "Content-Type": kind + "; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if packed:
            headers["Content-Encoding"] = "gzip"
        if tag:
            headers["ETag"] = '"%s"' % tag
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)

    def log_message(self, format, *arguments):
        """Nothing: whoever watches a training does not read a log of requests."""
