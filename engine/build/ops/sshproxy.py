"""`RUN --mount=type=ssh`: a socket inside the step that leads to an authentication agent outside.

The agent's own socket belongs to a user of the host and cannot be opened by a mapped root, so each step gets a socket of its own, with the owner and
mode that were asked for; whatever arrives there is passed on to the agent as long as the step runs.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from engine.linux.files import DIRECTORY, opened

_CHUNK = 16 * 1024
_AT_ONCE = 16


class AgentProxy:
    """Passes connections on from the socket `path` (made here) to `agent`; use as a context manager."""

    def __init__(self, path: Path, agent: Path, *, owner: tuple[int, int], mode: int) -> None:
        self._agent = agent
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with opened(os.open(path.parent, DIRECTORY)) as folder:
            self._listener.bind(
                f"/proc/self/fd/{folder}/{path.name}"
            )  # a socket's path may have 107 bytes only
        os.chown(path, *owner)
        path.chmod(mode)
        self._listener.listen(_AT_ONCE)
        self._slots = threading.Semaphore(_AT_ONCE)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="ssh-agent", daemon=True)

    def __enter__(self) -> AgentProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the step is over
            if not self._slots.acquire(blocking=False):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), name="ssh-agent", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent, suppress(OSError):
                agent.connect(str(self._agent))
                self._open |= {client, agent}
                back = threading.Thread(target=_pass_on, args=(agent, client), daemon=True)
                back.start()
                _pass_on(client, agent)
                back.join()
                self._open -= {client, agent}
        finally:
            self._slots.release()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
