"""Tar archives, read and written by our own hand.

Python's `tarfile` is lenient where two readers may then see two different archives; this reader has one meaning for
every archive or refuses it with `BadArchive` naming the entry. Read are V7, ustar, GNU (long names, base-256 numbers)
and pax archives; sparse files, multi-volume archives and contradictory headers are refused.

Sources: POSIX.1-2017 pax (ustar and pax interchange formats); GNU tar manual, "Basic Tar Format"; OCI image
specification, layer.md. Extended attributes travel in pax records `SCHILY.xattr.NAME`, as all container tools do it.

Names are text as `os.fsdecode` makes it: bytes that are no UTF-8 survive as surrogate escapes.

    reader = TarReader(stream, limits)
    for entry in reader:
        for chunk in reader.chunks():      # what is not read is skipped
            ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine.errors import BadArchive
from engine.layers.limits import LAYER, Limits, too_big
from engine.layers.tar_format import BLOCK, Kind, Readable, TarEntry, Writable
from engine.layers.tar_headers import Extended, check_sum, number, parse_entry
from engine.layers.tar_writer import TarWriter

__all__ = ["BLOCK", "Kind", "Readable", "TarEntry", "TarReader", "TarWriter", "Writable"]

CHUNK = 256 * 1024
EXTENDED_LIMIT = 1024 * 1024  # bytes of one pax or long-name header
_EXTENDED_IN_ROW = 4
_ZERO = bytes(BLOCK)


class TarReader:
    """Iterates over the entries of a tar stream; forward only, memory flat.

    With `require_end` an archive without its end marker counts as cut off; without, the end of the stream between two
    entries is an end (some tools write no marker, and a layer's digest says whether it is whole).
    """

    def __init__(self, stream: Readable, limits: Limits = LAYER, *, require_end: bool = False) -> None:
        self._stream = stream
        self._limits = limits
        self._require_end = require_end
        self._buffer = b""
        self._position = 0
        self._left = 0  # content bytes of the current entry not yet given out
        self._padding = 0
        self._current = ""
        self._deadline = time.monotonic() + limits.deadline_s
        self.entries = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> TarEntry | None:
        """Return the next entry, None at the end of the archive (everything up to the stream's end is then read)."""
        if self._left or self._padding:
            self._skip_content()
        entry = self._next_entry()
        if entry is None:
            return None
        self._current = entry.name
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        self._count(entry)
        return entry

    def chunks(self) -> Iterator[memoryview]:
        """Give the content of the current entry; a chunk is valid until the next one is asked for."""
        while self._left:
            if self._position >= len(self._buffer):
                self._refill()
            view = memoryview(self._buffer)[self._position : self._position + self._left]
            self._position += len(view)
            self._left -= len(view)
            yield view

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes of the current entry's content (all of it for -1), empty at its end."""
        if size < 0:
            return b"".join(bytes(chunk) for chunk in self.chunks())
        if not self._left or not size:
            return b""
        if self._position >= len(self._buffer):
            self._refill()
        data = self._buffer[self._position : self._position + min(size, self._left)]
        self._position += len(data)
        self._left -= len(data)
        return data

    def _next_entry(self) -> TarEntry | None:
        extended = Extended()
        for _ in range(_EXTENDED_IN_ROW + 1):
            block = self._block()
            if block is None:
                if extended:
                    raise BadArchive("the archive ends after an extended header", entry=self._current)
                return None
            flag = block[156:157]
            if flag in b"xgLKV" and flag:
                self._read_extended(block, flag, extended)
                continue
            return parse_entry(block, extended)
        raise BadArchive("too many extended headers before one entry", entry=self._current)

    def _read_extended(self, block: bytes, flag: bytes, extended: Extended) -> None:
        check_sum(block, self._current)
        size = number(block[124:136], "size", self._current)
        if size > EXTENDED_LIMIT:
            raise BadArchive(f"an extended header of {size} bytes", entry=self._current)
        data = self._exactly(size + -size % BLOCK)[:size]
        if flag == b"V":
            return
        if flag in b"LK":
            extended.add_long(flag, data, self._current)
        else:
            extended.add_pax(data, self._current, is_global=flag == b"g")

    def _block(self) -> bytes | None:
        """Return the next header block, or None at the end of the archive."""
        position = self._position
        if len(self._buffer) - position >= BLOCK:
            self._position = position + BLOCK
            block = self._buffer[position : position + BLOCK]
        else:
            found = self._available(BLOCK)
            if not found:
                if self._require_end:
                    raise BadArchive("the archive is cut off: its end marker is missing", entry=self._current)
                return None
            block = self._exactly(BLOCK)
        if block == _ZERO:
            self._read_end()
            return None
        return block

    def _read_end(self) -> None:
        """Read the second zero block and the rest; anything but zeros there is another archive in hiding."""
        if not self._available(BLOCK) and not self._require_end:
            return
        if self._exactly(BLOCK) != _ZERO:
            raise BadArchive("a lone zero block inside the archive", entry=self._current)
        while True:
            rest = self._buffer[self._position :]
            if rest.count(0) != len(rest):
                raise BadArchive("there is data after the end of the archive", entry=self._current)
            self._buffer, self._position = self._stream.read(CHUNK), 0
            if not self._buffer:
                return
            self._check_time()

    def _skip_content(self) -> None:
        for _ in self.chunks():
            pass
        padding, self._padding = self._padding, 0
        if len(self._buffer) - self._position >= padding:
            self._position += padding
        elif self._require_end:
            self._exactly(padding)
        else:
            # umoci leaves out the padding after the last entry, as Go's reader allows
            there = self._available(padding)  # moves the position
            self._position += min(padding, there)

    def _available(self, size: int) -> int:
        """Make up to `size` bytes ready in the buffer; return how many there are."""
        while len(self._buffer) - self._position < size:
            more = self._stream.read(CHUNK)
            if not more:
                break
            self._buffer = self._buffer[self._position :] + more
            self._position = 0
        return len(self._buffer) - self._position

    def _exactly(self, size: int) -> bytes:
        if self._available(size) < size:
            raise BadArchive("the archive is cut off", entry=self._current)
        data = self._buffer[self._position : self._position + size]
        self._position += size
        return data

    def _refill(self) -> None:
        self._check_time()
        self._buffer, self._position = self._stream.read(CHUNK), 0
        if not self._buffer:
            raise BadArchive("the archive is cut off", entry=self._current)

    def _count(self, entry: TarEntry) -> None:
        self.entries += 1
        self.bytes += entry.size
        if self.entries > self._limits.max_entries:
            raise too_big(f"{self.entries} entries", self._limits.max_entries, entry.name)
        if self.bytes > self._limits.max_bytes:
            raise too_big(f"{self.bytes} bytes", self._limits.max_bytes, entry.name)
        if not self.entries % 256:
            self._check_time()

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise too_big(f"taken more than {self._limits.deadline_s:.0f} s", "time", self._current)
