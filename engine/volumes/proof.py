"""The proof of a backup: reading back what was written, while it is written, with the code that a restore uses."""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading

from isal import isal_zlib

from engine.errors import Corrupt
from engine.layers.compression import OUT_CHUNK, UnpackedReader, open_any
from engine.layers.tar import Kind, TarReader, Writable
from engine.volumes.limits import VOLUME


class Proof:
    """Reads the archive back while it is written, in a thread, and keeps each file's size and checksum.

    The digest is that of the bytes read back, so it is one of what lies there.
    """

    def __init__(self, source: int) -> None:
        self._source = source  # the archive as a file, -1: only the bytes handed over
        self._queue: queue.Queue[bytes] = queue.Queue(32)
        self._stopped = threading.Event()
        self._found: list[tuple[str, int, int]] = []
        self._error: BaseException | None = None
        self._offset = 0
        self._digest = hashlib.sha256()
        self._chunk = b""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="backup-proof", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def feed(self, chunk: bytes) -> None:
        """Hand over a chunk that was written; waits when the proof is far behind."""
        while not self._stopped.is_set() and self._error is None:
            try:
                self._queue.put(chunk, timeout=0.5)
            except queue.Full:
                continue
            return

    def finish(self, expected: list[tuple[str, int, int]]) -> str:
        """Wait for the end, compare, and return the archive's digest; raise `Corrupt` with the first difference."""
        self.feed(b"")
        self._thread.join()
        self._close()
        if self._error is not None:
            raise Corrupt(f"the backup cannot be read back: {self._error}") from self._error
        for want, found in zip(expected, self._found, strict=False):
            if want != found:
                raise Corrupt(f"the backup reads back differently at {want[0]!r}")
        if len(expected) != len(self._found):
            raise Corrupt(f"the backup reads back with {len(self._found)} of {len(expected)} files")
        return f"sha256:{self._digest.hexdigest()}"

    def stop(self) -> None:
        """End the thread; nothing is compared."""
        self._stopped.set()
        self._thread.join()
        self._close()

    def read(self, size: int = -1, /) -> bytes:
        """Return the next packed bytes, as they lie in the file where there is one."""
        while not self._chunk and not self._ended:
            self._chunk = self._next()
        taken = self._chunk if size < 0 else self._chunk[:size]
        self._chunk = self._chunk[len(taken) :]
        return taken

    def _next(self) -> bytes:
        while not self._stopped.is_set():
            try:
                chunk = self._queue.get(timeout=0.5)
            except queue.Empty:
                continue
            self._ended = not chunk
            if chunk and self._source >= 0:
                size, chunk = len(chunk), os.pread(self._source, len(chunk), self._offset)
                self._offset += size
            self._digest.update(chunk)
            return chunk
        self._ended = True
        return b""

    def _run(self) -> None:
        try:
            reader = TarReader(_Whole(open_any(self, VOLUME)), VOLUME, require_end=True)
            for entry in reader:
                if entry.kind is not Kind.FILE:
                    continue
                checksum = 0
                for chunk in reader.chunks():
                    checksum = isal_zlib.crc32(chunk, checksum)
                self._found.append((entry.name, entry.size, checksum))
        except BaseException as error:
            self._error = error

    def _close(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1


class _Whole:
    """Gives the reader of the archive what was unpacked as it comes, uncut: nothing is copied on the way."""

    def __init__(self, unpacked: UnpackedReader) -> None:
        self._unpacked = unpacked

    def read(self, size: int = -1, /) -> bytes:
        return self._unpacked.read(max(size, OUT_CHUNK))


def source_of(out: Writable) -> int:
    """Return a descriptor to read back what is written to `out`, -1 where it is no regular file of its own offset 0."""
    fileno = getattr(out, "fileno", None)
    if fileno is None:
        return -1
    try:
        number = fileno()
        if not stat.S_ISREG(os.fstat(number).st_mode) or os.lseek(number, 0, os.SEEK_CUR) != 0:
            return -1
        return os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return -1
