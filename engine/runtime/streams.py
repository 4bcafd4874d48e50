"""The monitor's socket: what a terminal or a program's streams look like from outside.

conmon sends packets whose first byte tells the stream (2 stdout, 3 stderr) and takes packets of plain input, each at most 8,192
bytes. It sends with blocking writes: whoever connects reads all the time (`AttachPump`), or is the only reader of a program of its
own, where a slow reader slows just that program (`ExecSession`).
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BadSpec, Unavailable
from engine.runtime.log_reader import Gap, Piece

PACKET_BYTES = 8192
RING_BYTES = 256 * 1024
_STREAMS = {2: "stdout", 3: "stderr"}


def connect(path: Path, timeout_s: float = 5.0) -> socket.socket:
    """Connect to a monitor's socket, waiting for it to appear; raises `Unavailable` when it does not."""
    deadline = time.monotonic() + timeout_s
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() >= deadline:
                client.close()
                raise Unavailable(
                    "the streams of this program are not there", hint="it may have ended"
                ) from error
            time.sleep(0.005)
        except BaseException:
            client.close()
            raise
        else:
            return client


def receive(client: socket.socket, position: int = 0) -> Piece | None:
    """Read one packet; None at the end."""
    try:
        packet = client.recv(PACKET_BYTES + 1)
    except ConnectionResetError:
        return None
    if not packet:
        return None
    return Piece(_STREAMS.get(packet[0], "stdout"), packet[1:], position + len(packet) - 1)


def send(client: socket.socket, data: bytes) -> None:
    """Send input; waits while the program does not read. Raises `Unavailable` when it has ended."""
    view = memoryview(data)
    try:
        for start in range(0, len(view), PACKET_BYTES // 2):
            client.send(view[start : start + PACKET_BYTES // 2])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Unavailable("the program has ended or closed its input") from error


def end_input(client: socket.socket) -> None:
    """Tell that no more input comes."""
    try:
        client.shutdown(socket.SHUT_WR)
    except OSError:
        return  # it has ended meanwhile


class Ring:
    """The last bytes of a stream, for any number of readers, each with its own position; writing never waits."""

    def __init__(self, limit_bytes: int = RING_BYTES) -> None:
        self._limit = limit_bytes
        self._pieces: deque[Piece] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self.position = 0
        self.closed = False

    def put(self, stream: str, data: bytes) -> None:
        with self._changed:
            self.position += len(data)
            self._pieces.append(Piece(stream, data, self.position))
            self._held += len(data)
            while self._held > self._limit and len(self._pieces) > 1:
                self._held -= len(self._pieces.popleft().data)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def read(self, after: int, timeout_s: float) -> list[Piece | Gap]:
        """Return what came after a position, waiting up to `timeout_s` for something; a `Gap` first for what is gone."""
        with self._changed:
            if self.position <= after and not self.closed:
                self._changed.wait(timeout_s)
            found: list[Piece | Gap] = []
            for piece in self._pieces:
                start = piece.position - len(piece.data)
                if piece.position <= after:
                    continue
                if not found and start > after:
                    found.append(Gap(start - after, start))
                found.append(Piece(piece.stream, piece.data[max(0, after - start) :], piece.position))
            return found


class AttachPump:
    """One connection to a container's monitor for all who look on in this process. Always reads, whoever is slow."""

    def __init__(self, path: Path, ring_bytes: int = RING_BYTES) -> None:
        self._client = connect(path)
        self.ring = Ring(ring_bytes)
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="attach-pump", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self.ring.closed

    def write(self, data: bytes) -> None:
        """Send input for the container's first process; writers do not mix within one call."""
        with self._sending:
            send(self._client, data)

    def end_input(self) -> None:
        end_input(self._client)

    def read(self, after: int) -> Iterator[list[Piece | Gap]]:
        """Yield output after a position until the container's streams end; an empty list at least once a second."""
        while True:
            closed = self.ring.closed
            found = self.ring.read(after, 1.0)
            if found:
                after = found[-1].position
            elif closed:
                return
            yield found

    def close(self) -> None:
        with suppress(OSError):  # the monitor has gone
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)

    def _drain(self) -> None:
        try:
            while (piece := receive(self._client)) is not None:
                self.ring.put(piece.stream, piece.data)
        finally:
            self.ring.close()
            self._client.close()


@dataclass
class DetachKeys:
    """Looks for the keys that leave a terminal (`ctrl-p,ctrl-q`) in what is typed."""

    keys: bytes
    _matched: int = 0

    @classmethod
    def parse(cls, text: str = "ctrl-p,ctrl-q") -> DetachKeys:
        """Read Docker's form: single characters and `ctrl-` with a letter or one of `@[\\]^_`; empty means none."""
        keys = b""
        for word in text.split(",") if text else []:
            if len(word) == 1 and word.isascii():
                keys += word.encode()
            elif (
                len(word) == 6
                and word.startswith("ctrl-")
                and ("a" <= word[5] <= "z" or word[5] in "@[\\]^_")
            ):
                keys += bytes([ord(word[5].upper()) & 0x1F])
            else:
                raise BadSpec(f"not a detach key: {word[:20]!r}", hint="ctrl-p,ctrl-q for instance")
        return cls(keys)

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what to hand on, and whether the keys are complete. A beginning of them is held back."""
        if not self.keys:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self.keys[self._matched]:
                self._matched += 1
                if self._matched == len(self.keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self.keys[: self._matched]
            self._matched = 1 if byte == self.keys[0] else 0
            if not self._matched:
                out.append(byte)
        return bytes(out), False


def check_size(rows: int, columns: int) -> tuple[int, int]:
    """Return a terminal's size; refuse what no terminal has."""
    if not (
        isinstance(rows, int) and isinstance(columns, int) and 0 < rows <= 10_000 and 0 < columns <= 10_000
    ):
        raise BadSpec(f"not a size of a terminal: {rows!r} rows, {columns!r} columns")
    return rows, columns
