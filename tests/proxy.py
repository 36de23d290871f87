"""A TCP proxy before a PostgreSQL server: the tests cut, reset and freeze connections with it."""

import contextlib
import ctypes
import socket
import struct
import threading

from waiting import wait_until

# From Linux's asm-generic/socket.h and linux/filter.h.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K with 0 bytes to keep


class Proxy:
    """Forwards connections to a server on a Unix socket; a context manager.

    Attributes:
        port: Its port on 127.0.0.1.
        withheld: How often something was not forwarded.
        connections: How many connections were accepted.
    """

    def __init__(self, path):
        """Start the proxy.

        Args:
            path: The path of the server's Unix socket.
        """
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        self._flows = threading.Event()
        self._flows.set()
        self._closed = False
        self._freeze_at = self._reset_at = None
        self._pairs = []
        self.withheld = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._closed = True
        self.heal()
        self._listener.close()
        self.reset()

    def freeze(self):
        """Forward nothing any more; the kernel still acknowledges packets, as for SIGSTOP."""
        self._flows.clear()

    def freeze_at(self, text):
        """Freeze when a client sends this text, before it is forwarded."""
        self._freeze_at = text

    def reset_at(self, text):
        """Forward the first bytes of a message with this text, then reset the connection, once."""
        self._reset_at = text

    def cut(self):
        """Cut the network: packets of clients are dropped and not acknowledged."""
        self.freeze()
        program = ctypes.create_string_buffer(DROP_ALL)
        filter_ = struct.pack("HL", 1, ctypes.addressof(program))
        for client in self._clients():
            client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)

    def abandon(self):
        """Cut the open connections, which the server keeps; new ones are forwarded."""
        self.cut()
        self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._flows.set()

    def heal(self):
        """End a cut or a freeze."""
        for client in self._clients():
            with contextlib.suppress(OSError):  # it has no filter, or it is closed
                client.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self._freeze_at = None
        self._flows.set()

    def reset(self):
        """Reset all connections; new ones are forwarded."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            reset(pair)

    def _clients(self):
        return [self._listener, *(client for client, _ in self._pairs if client.fileno() >= 0)]

    def _accept(self):
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client):
        self._flows.wait()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        pair = (client, server)
        try:
            server.connect(self._path)
        except OSError:
            reset(pair)
            return
        self._pairs.append(pair)
        threading.Thread(target=self._pump, args=(server, client, pair), daemon=True).start()
        self._pump(client, server, pair)

    def _pump(self, source, target, pair):
        try:
            while True:
                content = source.recv(1 << 16)
                if not content:
                    target.shutdown(socket.SHUT_WR)
                    return
                self._check(source is pair[0], content, target, pair)
                if not self._flows.is_set():
                    self.withheld += 1
                    self._flows.wait()
                target.sendall(content)
        except OSError:
            reset(pair)

    def _check(self, from_client, content, target, pair):
        if from_client and self._freeze_at and self._freeze_at in content:
            self.freeze()
        if from_client and self._reset_at and self._reset_at in content:
            self._reset_at = None
            target.sendall(content[: len(content) // 2])
            raise ConnectionResetError


def reset(pair):
    """Close two sockets without the usual farewell."""
    for end in pair:
        with contextlib.suppress(OSError):  # it is closed already
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def wait_withheld(proxy):
    """Wait until the proxy has withheld something."""
    wait_until(lambda: proxy.withheld)
