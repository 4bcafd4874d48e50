"""Logs: every line back, from any place, across rotation, and never more than the disk may hold."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from engine.runtime.log_reader import Entry, Gap, LogQuery, LogReader, Piece
from engine.runtime.logs import LogFiles
from tests.support.logs import Writer

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path / "log", 1024 * 1024)


def texts(reader: LogReader, query: LogQuery | None = None) -> list[bytes]:
    return [
        entry.text
        for batch in reader.entries(query or LogQuery())
        for entry in batch
        if isinstance(entry, Entry)
    ]


def filled(files: LogFiles, count: int = 100, **options: int) -> Writer:
    writer = Writer(files, **options)
    for number in range(count):
        writer.write(f"line {number}\n".encode(), time_ns=START + number * SECOND)
    return writer


def test_lines_come_back_with_time_and_stream(files: LogFiles) -> None:
    writer = Writer(files)
    writer.write(b"out\n", time_ns=START + 5)
    writer.write(b"err\n", time_ns=START + 6, stream="stderr")
    entries = [entry for batch in LogReader(files).entries(LogQuery()) for entry in batch]
    assert [(e.time_ns, e.stream, e.text) for e in entries if isinstance(e, Entry)] == [
        (START + 5, "stdout", b"out\n"),
        (START + 6, "stderr", b"err\n"),
    ]


def test_an_unfinished_line_comes_back_without_newline(files: LogFiles) -> None:
    writer = Writer(files)
    writer.write(b"prompt$ ")
    writer.write(b"answer\r\n")
    pieces = [
        piece.data
        for batch in LogReader(files).raw(LogQuery())
        for piece in batch
        if isinstance(piece, Piece)
    ]
    assert b"".join(pieces) == b"prompt$ answer\r\n"


def test_raw_joins_lines_of_a_stream_and_keeps_their_order(files: LogFiles) -> None:
    writer = Writer(files)
    for text, stream in ((b"1\n2\n", "stdout"), (b"3\n", "stderr"), (b"4\n", "stdout")):
        writer.write(text, stream=stream)
    pieces = [
        (p.stream, p.data)
        for batch in LogReader(files).raw(LogQuery())
        for p in batch
        if isinstance(p, Piece)
    ]
    assert pieces == [("stdout", b"1\n2\n"), ("stderr", b"3\n"), ("stdout", b"4\n")]
    only = [
        p.data
        for batch in LogReader(files).raw(LogQuery(stdout=False))
        for p in batch
        if isinstance(p, Piece)
    ]
    assert only == [b"3\n"]


def test_raw_with_times_has_dockers_form(files: LogFiles) -> None:
    Writer(files).write(b"x\n", time_ns=START + 42)
    (batch,) = LogReader(files).raw(LogQuery(timestamps=True))
    assert isinstance(batch[0], Piece)
    assert batch[0].data == b"2023-11-14T22:13:20.000000042Z x\n"


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1000])
def test_tail_gives_the_last_lines(files: LogFiles, count: int) -> None:
    filled(files, 100)
    assert (
        texts(LogReader(files), LogQuery(tail=count))
        == [f"line {n}\n".encode() for n in range(100)][100 - min(count, 100) :]
    )


def test_tail_reaches_over_segments(files: LogFiles) -> None:
    filled(files, 500, limit=2000)
    assert len(files.segments()) > 10
    assert texts(LogReader(files), LogQuery(tail=300)) == [f"line {n}\n".encode() for n in range(200, 500)]


def test_tail_counts_the_lines_that_are_searched(files: LogFiles) -> None:
    filled(files, 100)
    assert texts(LogReader(files), LogQuery(tail=2, search="LINE 1")) == [b"line 18\n", b"line 19\n"]


def test_since_and_until_find_their_place(files: LogFiles) -> None:
    filled(files, 500, limit=3000)
    query = LogQuery(since_ns=START + 100 * SECOND, until_ns=START + 200 * SECOND)
    assert texts(LogReader(files), query) == [f"line {n}\n".encode() for n in range(100, 201)]
    assert texts(LogReader(files), LogQuery(since_ns=START + 10_000 * SECOND)) == []
    assert texts(LogReader(files), LogQuery(until_ns=START - 1)) == []
    assert len(texts(LogReader(files), LogQuery(since_ns=1))) == 500


def test_a_position_resumes_exactly_there(files: LogFiles) -> None:
    filled(files, 300, limit=3000)
    entries = [e for batch in LogReader(files).entries(LogQuery()) for e in batch if isinstance(e, Entry)]
    for index in (0, 1, 57, 150, 299):
        rest = texts(LogReader(files), LogQuery(after=entries[index].position))
        assert rest == [e.text for e in entries[index + 1 :]]


def test_the_disk_is_bounded_and_a_reader_is_told_what_it_missed(files: LogFiles) -> None:
    writer = Writer(files)
    writer.write(b"first\n")
    beginning = LogReader(files).end()
    for number in range(40_000):
        writer.write(f"{number} {'x' * 60}\n".encode())
    assert files.size_bytes() <= files.max_bytes
    batches = [e for batch in LogReader(files).entries(LogQuery(after=beginning)) for e in batch]
    assert isinstance(batches[0], Gap)
    assert batches[0].missed_bytes > 1_000_000
    assert batches[-1].text.startswith(b"39999 ")  # type: ignore[union-attr]


def test_the_disk_is_bounded_when_nobody_refreshes(files: LogFiles) -> None:
    writer = Writer(files, refresh=False)
    for number in range(40_000):
        writer.write(f"{number} {'x' * 60}\n".encode())
    on_disk = (
        sum(path.stat().st_size for path in (files.folder / "segments").iterdir())
        + files.active.stat().st_size
    )
    assert on_disk <= files.max_bytes
    assert texts(LogReader(files), LogQuery(tail=1))[0].startswith(b"39999 ")


def test_rotation_loses_no_line_to_followers(files: LogFiles) -> None:
    """F-34: many rotations under several followers, no line lost and none twice."""
    writer = Writer(files, limit=20_000)
    done = threading.Event()
    results: list[list[bytes]] = [[] for _ in range(3)]

    def follow(into: list[bytes]) -> None:
        for batch in LogReader(files, pause_s=0.1).entries(LogQuery(follow=True), lambda: not done.is_set()):
            into.extend(entry.text for entry in batch if isinstance(entry, Entry))

    threads = [threading.Thread(target=follow, args=(into,)) for into in results]
    for thread in threads:
        thread.start()
    expected = [f"{number} é\n".encode() for number in range(8000)]
    for number, text in enumerate(expected):
        writer.write(text)
        if number % 50 == 0:
            time.sleep(0.001)
    done.set()
    for thread in threads:
        thread.join(10)
    assert all(result == expected for result in results)


def test_follow_wakes_at_once(files: LogFiles) -> None:
    writer = Writer(files)
    seen: list[float] = []
    written: list[float] = []
    reading = LogReader(files).entries(LogQuery(follow=True), lambda: len(seen) < 5)

    def write() -> None:
        for _ in range(5):
            time.sleep(0.03)
            written.append(time.monotonic())
            writer.write(b"tick\n")

    threading.Thread(target=write).start()
    for batch in reading:
        seen.extend(time.monotonic() for _ in batch)
    assert max(b - a for a, b in zip(written, seen, strict=True)) < 0.1


def test_a_tail_of_a_large_log_reads_little(tmp_path: Path) -> None:
    """A sparse file of 1 GB stands for the log: reading it whole would show."""
    files = LogFiles(tmp_path / "log", 4 << 30)
    writer = filled(files, 20)
    writer.close()
    with open(files.active, "r+b") as file:
        head = file.read()
        file.truncate(1 << 30)
        file.seek((1 << 30) - len(head) - 1)
        file.write(b"\n" + head)
    began = time.perf_counter()
    assert texts(LogReader(files), LogQuery(tail=10)) == [f"line {n}\n".encode() for n in range(10, 20)]
    assert time.perf_counter() - began < 0.5


def test_foreign_bytes_in_a_log_do_no_harm(files: LogFiles) -> None:
    writer = Writer(files)
    writer.write(b"good\n")
    with open(files.active, "ab") as file:
        file.write(b"not a log line\n\x00\xff\n2023 stdout F x\n")
    writer.write(b"again\n")
    assert texts(LogReader(files)) == [b"good\n", b"again\n"]


def test_the_monitors_own_form_is_understood() -> None:
    line = b"2026-11-24T23:57:38.484931122+00:00 stdout F hi\n"
    assert re.match(rb"\S{35} ", line)


def _log_line(stream: str, tag: str, text: bytes) -> bytes:
    return b"2026-01-31T12:34:56.123456789+00:00 %b %b %b\n" % (stream.encode(), tag.encode(), text)


_TEXTS = [
    b"plain",
    b"",
    b"\r",
    b"tab\x0b\x0c\x1c",
    b"\xff\xfe",
    _log_line("stderr", "F", b"looks like one")[:-1],
]


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize(
    "kinds",
    [
        "stdout F",
        "stderr F",
        "stdout F,stderr F",
        "stdout F,stdout P,stdout F",
        "stdout P",
        "stdout F,no line",
    ],
)
def test_lines_in_bulk_are_the_same_as_one_by_one(files: LogFiles, kinds: str, timestamps: bool) -> None:
    """Whatever the text holds and however the lines are mixed, the quick way gives what the lines give."""
    files.prepare()
    with files.active.open("ab") as log:
        for text in _TEXTS:
            for kind in kinds.split(","):
                stream, _, tag = kind.partition(" ")
                log.write(b"nonsense\n" if stream == "no" else _log_line(stream, tag, text))
    for wanted in ({}, {"stdout": False}, {"stderr": False}):
        query = LogQuery(timestamps=timestamps, **wanted)
        pieces = [p for batch in LogReader(files).raw(query) for p in batch if isinstance(p, Piece)]
        entries = [e for batch in LogReader(files).entries(query) for e in batch if isinstance(e, Entry)]
        shown = [(e.stream, f"{e.time[:29]}Z ".encode() * timestamps + e.text) for e in entries]
        for stream in ("stdout", "stderr"):
            expected = b"".join(text for name, text in shown if name == stream)
            assert b"".join(p.data for p in pieces if p.stream == stream) == expected
