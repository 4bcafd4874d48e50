"""Reading a container's log: from the end, from a time, from a position, on and on; never in the container's way.

Two forms: `entries` gives lines with their time for people and pages; `raw` gives the program's bytes back, many lines at a
time, and is an order of magnitude quicker. Both begin where the query says without reading what is before: a time is found by
halving, the last lines by going backwards from the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from engine.linux.inotify import CREATE, MODIFY, MOVED_TO, Watch
from engine.runtime.logs import LogFiles

_BLOCK = 256 * 1024
_PAUSE_S = 1.0
_TIME = 35  # length of 2026-01-31T12:34:56.123456789+00:00
_HEAD = _TIME + len(" stdout F ")
_KIND, _TEXT = itemgetter(slice(_TIME, _HEAD)), itemgetter(slice(_HEAD, None))
_WHOLE = {b" stdout F ": "stdout", b" stderr F ": "stderr"}
_LINE = re.compile(rb"^(\S{35}) (stdout|stderr) ([FP]) ([^\n]*)\n", re.M)
_LINES = re.compile(rb"[^\n]*\n")  # not splitlines: a terminal's text is full of carriage returns
_RUN = re.compile(rb"(?:^\S{35} stdout [FP] [^\n]*\n)+|(?:^\S{35} stderr [FP] [^\n]*\n)+", re.M)
_PLAIN = re.compile(rb"^\S{35} \S{6} (?:F |P ([^\n]*)\n)", re.M)
_TIMED_LINE = re.compile(rb"^(\S{29})\S{6} \S{6} (?:F |P ([^\n]*)\n)", re.M)


@dataclass(frozen=True)
class LogQuery:
    """What to read. `tail` None means all; times are nanoseconds since the epoch, 0 means no bound.

    `search` keeps the lines that contain it, whatever the case. `after` resumes from a position; then `tail` and `since_ns`
    do not count. `timestamps` puts the time before each line of `raw`.
    """

    tail: int | None = None
    since_ns: int = 0
    until_ns: int = 0
    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    search: str = ""
    after: int | None = None
    timestamps: bool = False

    @cached_property
    def needle(self) -> re.Pattern[bytes] | None:
        return re.compile(re.escape(self.search.encode()), re.I) if self.search else None


class Entry(NamedTuple):
    """One line. `text` includes the newline that the program wrote; `position` is the place after it in the log."""

    time: str
    stream: str
    text: bytes
    position: int

    @property
    def time_ns(self) -> int:
        return parse_time(self.time.encode())


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that the program wrote to one stream, one line or many; `position` is the place after them in the log."""

    stream: str
    data: bytes
    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """`missed_bytes` of the log were removed before the reader came to them."""

    missed_bytes: int
    position: int


@dataclass(frozen=True)
class _Block:
    data: bytes  # whole lines
    position: int  # the place before them


class LogReader:
    """A reader of one container's log. Make one for each reading."""

    def __init__(self, files: LogFiles, *, pause_s: float = _PAUSE_S) -> None:
        self._files = files
        self._pause_s = pause_s

    def end(self) -> int:
        """Return the position after the last whole line written so far."""
        self._files.refresh()
        segments = self._files.segments()
        for segment in reversed(segments):
            with suppress(FileNotFoundError), open(self._files.path(segment), "rb") as file:
                return segment + _whole(file.fileno())
        return 0

    def begin(self, query: LogQuery) -> int:
        """Return the position where reading begins: a query with it as `after` reads from there, whatever is written meanwhile."""
        return self._begin(query)

    def entries(
        self, query: LogQuery, alive: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Entry | Gap]]:
        """Yield the wanted lines, in lists as they come from the disk.

        With `query.follow` it goes on until `alive()` is false and all is read. While it waits it yields an empty list
        at least once a second, so that the caller can look up and stop.
        """
        for block in self._blocks(query, alive):
            if isinstance(block, Gap):
                yield [block]
            else:
                yield _entries(block, query)

    def raw(self, query: LogQuery, alive: Callable[[], bool] = lambda: False) -> Iterator[list[Piece | Gap]]:
        """As `entries`, with the lines of a stream joined; a line that is not finished comes without a newline."""
        for block in self._blocks(query, alive):
            if isinstance(block, Gap):
                yield [block]
            elif query.needle:
                yield [_piece(entry, query.timestamps) for entry in _entries(block, query)]
            else:
                yield _pieces(block, query)

    def _blocks(self, query: LogQuery, alive: Callable[[], bool]) -> Iterator[_Block | Gap]:
        """Yield the wanted part of the log in blocks of whole lines; an empty block while there is nothing new."""
        with Watch() as watch, _Place(self._files, self._begin(query)) as place:
            watching = -1
            while True:
                was_alive = query.follow and alive()  # asked first: what came before the end is read below
                while (block := place.next_block()) is not None:
                    over = False
                    if query.until_ns and isinstance(block, _Block):
                        length = _find_time(block.data, query.until_ns + 1)
                        block, over = _Block(block.data[:length], block.position), length < len(block.data)
                    yield block
                    if over:
                        return
                if not was_alive:
                    return
                if watching != place.segment:
                    watching = place.segment
                    watch.add(self._files.folder, MOVED_TO | CREATE)
                    watch.add(self._files.path(watching), MODIFY)
                    continue  # what was written before the watch began is read first
                watch.wait(self._pause_s)
                yield _Block(b"", place.position)

    def _begin(self, query: LogQuery) -> int:
        if query.after is not None:
            return query.after
        self._files.refresh()
        segments = self._files.segments()
        if not segments:
            return 0
        start = self._since(segments, query.since_ns) if query.since_ns else segments[0]
        return start if query.tail is None else max(start, self._tail(segments, query))

    def _since(self, segments: list[int], since_ns: int) -> int:
        """Find the first line that is not older: first its segment, then the place in it, by halving."""
        candidate = segments[0]
        for segment in segments[1:]:
            with suppress(FileNotFoundError), open(self._files.path(segment), "rb") as file:
                first = _line_time(os.pread(file.fileno(), _TIME, 0))
                if first is None or first > since_ns:
                    break
                candidate = segment
        with suppress(FileNotFoundError), open(self._files.path(candidate), "rb") as file:
            return candidate + _bisect(file.fileno(), since_ns)
        return candidate

    def _tail(self, segments: list[int], query: LogQuery) -> int:
        """Go backwards from the end until enough wanted lines are behind us. Parts of a line count with its last part."""
        left = query.tail or 0
        place = self.end()
        for segment in reversed(segments if left > 0 else []):
            with suppress(FileNotFoundError), open(self._files.path(segment), "rb") as file:
                for offset, line in _backwards(file.fileno()):
                    match = _LINE.match(line)
                    if match is None or not _wanted(match, query):
                        continue
                    if match[3] == b"F":
                        if left == 0:
                            return place
                        left -= 1
                    place = segment + offset
        return place


class _Place:
    """A position in the log with the segment that it lies in open. A segment that was removed can still be read to its end."""

    def __init__(self, files: LogFiles, position: int) -> None:
        self._files = files
        self._fd = -1
        self.segment = -1
        self.position = position

    def next_block(self) -> _Block | Gap | None:
        """Return the next whole lines, or a gap, and go on behind them; None when there is nothing more yet."""
        if self._fd < 0 and (gap := self._open()) is not None:
            return gap
        while self._fd >= 0:
            if (block := self._read()) is not None:
                return block
            self._files.refresh()
            newer = [segment for segment in self._files.segments() if segment > self.segment]
            if not newer:
                return None
            if (block := self._read()) is not None:  # written between the two looks
                return block
            self.__exit__()
            missed = newer[0] - self.position
            self.position = newer[0]
            if missed > 1:  # 1 is an empty segment's own place
                return Gap(missed, self.position)
            self._open()
        return None

    def _open(self) -> Gap | None:
        """Open the segment that holds the position, or else the first one behind it."""
        segments = self._files.segments()
        behind = [segment for segment in segments if segment <= self.position]
        for segment in [*behind[-1:], *[segment for segment in segments if segment > self.position]]:
            try:
                self._fd = os.open(self._files.path(segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            self.segment = segment
            if segment <= self.position:
                return None
            missed, self.position = segment - self.position, segment
            return Gap(missed, segment)
        return None

    def _read(self) -> _Block | None:
        data = os.pread(self._fd, _BLOCK, self.position - self.segment)
        end = data.rfind(b"\n") + 1
        if not end:
            return None
        block = _Block(data[:end], self.position)
        self.position += end
        return block

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pieces(block: _Block, query: LogQuery) -> list[Piece | Gap]:
    """Return the text of a block. Nearly all are whole lines of one stream: those are cut and joined in bulk."""
    lines = block.data.split(b"\n")
    lines.pop()  # what is behind the last newline: nothing
    kinds = set(map(_KIND, lines))
    if not kinds <= _WHOLE.keys() or len(kinds) > 1:
        return _runs(block, query)
    stream = _WHOLE[kinds.pop()] if kinds else ""
    if not stream or not getattr(query, stream):
        return []
    if query.timestamps:
        texts: Iterable[bytes] = [b"%bZ %b" % (line[:29], line[_HEAD:]) for line in lines]
    else:
        texts = map(_TEXT, lines)
    lines[:] = texts
    lines.append(b"")
    return [Piece(stream, b"\n".join(lines), block.position + len(block.data))]


def _runs(block: _Block, query: LogQuery) -> list[Piece | Gap]:
    """Return the text of a block of both streams, or with unfinished lines: a piece for each change of the stream."""
    pattern, form = (_TIMED_LINE, rb"\1Z \2") if query.timestamps else (_PLAIN, rb"\1")
    pieces: list[Piece | Gap] = []
    for run in _RUN.finditer(block.data):
        stream = run[0][_TIME + 1 : _TIME + 7].decode()
        if getattr(query, stream):
            pieces.append(Piece(stream, pattern.sub(form, run[0]), block.position + run.end()))
    return pieces


def _entries(block: _Block, query: LogQuery) -> list[Entry | Gap]:
    if query.needle is not None and not query.needle.search(block.data):
        return []
    return [
        Entry(match[1].decode(), match[2].decode(), _text(match), block.position + match.end())
        for match in _LINE.finditer(block.data)
        if _wanted(match, query)
    ]


def _wanted(match: re.Match[bytes], query: LogQuery) -> bool:
    if not (query.stdout if match[2] == b"stdout" else query.stderr):
        return False
    return query.needle is None or query.needle.search(match[4]) is not None


def _text(match: re.Match[bytes]) -> bytes:
    return match[4] + b"\n" if match[3] == b"F" else match[4]


def _piece(entry: Entry | Gap, timestamps: bool) -> Piece | Gap:
    if isinstance(entry, Gap):
        return entry
    time = f"{entry.time[:29]}Z ".encode() if timestamps else b""
    return Piece(entry.stream, time + entry.text, entry.position)


def parse_time(text: bytes) -> int:
    """Return the nanoseconds since the epoch of a log line's time."""
    whole = datetime.fromisoformat(text[:19].decode() + text[29:35].decode())
    return int(whole.timestamp()) * 1_000_000_000 + int(text[20:29])


def _line_time(line: bytes) -> int | None:
    try:
        return parse_time(line[:_TIME])
    except (ValueError, IndexError):
        return None


def _find_time(data: bytes, time_ns: int) -> int:
    """Return the offset of the first line in `data` (whole lines) that is not older than `time_ns`."""
    low, high = 0, len(data)
    while low < high:
        middle = data.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = data.find(b"\n", middle) + 1 or len(data)
        time = _line_time(data[middle : middle + _TIME])
        if time is not None and time < time_ns:
            low = end
        else:
            high = middle
    return low


def _bisect(fd: int, time_ns: int) -> int:
    """Return the offset of the first line of a file that is not older than `time_ns`, reading a few blocks only."""
    low, high = 0, os.fstat(fd).st_size
    while high - low > _BLOCK:
        middle = (low + high) // 2
        data = os.pread(fd, _BLOCK // 8, middle)
        start = data.find(b"\n") + 1
        time = _line_time(data[start : start + _TIME]) if start else None
        if time is not None and time < time_ns:
            low = middle + start
        else:
            high = middle
    data = os.pread(fd, high - low + _BLOCK, low)
    return low + _find_time(data[: data.rfind(b"\n") + 1], time_ns)


def _whole(fd: int) -> int:
    """Return the offset after the last newline of a file."""
    for offset, line in _backwards(fd):
        return offset + len(line)
    return 0


def _backwards(fd: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file from the last to the first, each with its offset."""
    end = os.fstat(fd).st_size
    rest = b""  # the beginning of the lines already read, not yet known to be complete
    first = True
    while end > 0:
        start = max(0, end - _BLOCK)
        data = os.pread(fd, end - start, start) + rest
        if first:  # a line being written right now, or bytes that are no line at all
            data = data[: data.rfind(b"\n") + 1]
        first = b"\n" not in data
        cut = data.find(b"\n") + 1 if start else 0
        rest, data = (b"", b"") if first else (data[:cut], data[cut:])
        offset = start + cut + len(data)
        for line in reversed(_LINES.findall(data)):
            offset -= len(line)
            yield offset, line
        end = start
