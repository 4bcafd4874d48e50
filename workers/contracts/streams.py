"""Frames of interactive streams: bytes that flow between a reader in the web site and a node's agent.

A reading process is a *hub*: it has one Redis stream (`wf:hub:<hub>`) on which all agents send it the frames of all its streams. Frames
to an agent go to `wf:streams:<node>`. Each entry has one field `f`: 16 bytes of MAC, a JSON header line, then the data.

Header: `id` of the stream, `n` the frame's number in its direction (0, 1, 2 ...: a hole means frames were lost and ends the stream),
`t` its type, and for some types `ch` (channel: 1 stdout or terminal, 2 stderr), `c` (cursor after this frame) and `m` (JSON facts).

| type | direction | meaning |
|---|---|---|
| `open` | to the agent | data is an `Open` as JSON; first frame |
| `opened` | to the reader | accepted; `m`: facts such as `{"tty": true}` |
| `data` | both | bytes: output to the reader, standard input or an upload to the agent |
| `credit` | both | `m`: `{"bytes": n}`: the sender of this frame will take n more bytes of `data` |
| `eof` | both | no more `data` from this side |
| `gap` | to the reader | the reader was too slow; `m`: `{"bytes": n}` were skipped at this place |
| `resize` | to the agent | `m`: `{"width", "height"}` of the terminal |
| `close` | to the agent | the reader is gone; the stream ends, the container does not |
| `end` | to the reader | last frame; `m`: `{"reason", "exit_code"?, "problem"?}` |

Credit counts bytes of data and starts at `Open.credit` to the reader and at 0 to the agent (whose first `credit` frame follows `opened`).

| kind | params | data |
|---|---|---|
| `logs` | container, stdout, stderr, since, until, tail, follow, timestamps, search, format, cursor | format `raw`: bytes, one channel a frame; `mux`: Docker's 8-byte-header frames; `json`: lines `[time_ns, channel, text]` |
| `attach` | container, stdin, stdout, stderr, logs, detach_keys, format (`raw`, `mux`) | output; input; `end` has `exit_code`, or `detached` |
| `exec` | container, exec_id, command, env, user, workdir, tty, stdin, privileged, rights, width, height, detach_keys, hangup (kill it when the reader leaves) | output; input; `end` has `exit_code` |
| `stats` | containers (empty: all running), interval_s, one_shot | one JSON line a sample |
| `events` | after_seq (-1: from now), until_s | one JSON line a `NodeEvent`; cursor is its seq |
| `wait` | container, condition: `not-running`, `next-exit`, `removed` | none; `end` has `exit_code` |
| `operation` | id, cursor | one JSON line an entry of the operation's log; `end` has `status` |
| `container.archive` | container, path | tar; `opened` has `stat` |
| `container.export` | container | tar |
| `image.save` | images | tar |
| `volume.file` | volume, path | the file's bytes |
| `volume.backup` | volume, compression | the archive |
| `backup.file` | directory, file_name | the bytes of a backup that is kept on the node; `opened` has `size_bytes` |
| `spool.read` | target | the bytes of a spooled file of the node, for web sites on another machine |
| `spool.write` | source | none; input is the file's bytes; `end` has `size_bytes` |
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import Any

from workers.contracts.names import check_id
from workers.contracts.signing import BadSignature, NodeKey
from workers.contracts.values import ContractError, dumps, from_json, loads, to_json

MAC_BYTES = 16
MAX_FRAME_BYTES = 4 * 1024 * 1024
DEFAULT_CREDIT = 1024 * 1024
CLOCK_SKEW_S = 60.0  # how far the clocks of two machines may be apart
TO_AGENT = ("open", "data", "credit", "eof", "resize", "close")
TO_READER = ("opened", "data", "credit", "eof", "gap", "end")
MAX_TERMINAL = 65535


@dataclass(frozen=True)
class Open:
    """What a reader asks for. The agent refuses it after `expires_at` and when it knows `id` already."""

    node: str
    hub: str
    kind: str
    expires_at: float
    params: dict[str, Any] = field(default_factory=dict)  # judged by the handler of the kind
    credit: int = DEFAULT_CREDIT


@dataclass(frozen=True)
class Frame:
    """One frame; see the module's tables."""

    id: str
    n: int
    t: str
    data: bytes = b""
    ch: int = 0
    c: str = ""
    m: dict[str, Any] = field(default_factory=dict)  # any JSON


class FrameKeys:
    """The MAC keys of one stream, one a direction."""

    def __init__(self, key: NodeKey, stream_id: str) -> None:
        self._keys = {
            to_agent: key.derive(f"stream:{stream_id}:{'in' if to_agent else 'out'}")
            for to_agent in (True, False)
        }

    def mac(self, body: bytes, *, to_agent: bool) -> bytes:
        return hmac.digest(self._keys[to_agent], body, hashlib.sha256)[:MAC_BYTES]


def pack(keys: FrameKeys, frame: Frame, *, to_agent: bool) -> bytes:
    """Return the bytes of a frame."""
    header: dict[str, Any] = {"id": frame.id, "n": frame.n, "t": frame.t}
    for name in ("ch", "c", "m"):
        if value := getattr(frame, name):
            header[name] = value
    body = dumps(header).encode() + b"\n" + frame.data
    return keys.mac(body, to_agent=to_agent) + body


def peek(packed: bytes) -> Frame:
    """Parse a frame without believing it: `check` must follow before anything is done with it."""
    if not MAC_BYTES < len(packed) <= MAX_FRAME_BYTES:
        raise ContractError(f"frame of {len(packed)} bytes")
    end = packed.find(b"\n", MAC_BYTES)
    if end < 0:
        raise ContractError("frame without a header")
    header = loads(packed[MAC_BYTES:end])
    if not isinstance(header, dict) or "data" in header:
        raise ContractError("frame with a malformed header")
    frame = from_json(_Header, header)
    return Frame(check_id(frame.id), frame.n, frame.t, packed[end + 1 :], frame.ch, frame.c, frame.m)


def check(keys: FrameKeys, packed: bytes, *, to_agent: bool) -> None:
    """Raise `BadSignature` unless the frame was packed for this stream and direction by a holder of the node's key."""
    if not hmac.compare_digest(keys.mac(packed[MAC_BYTES:], to_agent=to_agent), packed[:MAC_BYTES]):
        raise BadSignature("frame does not fit the key of its stream")


def open_frame(stream_id: str, request: Open) -> Frame:
    return Frame(stream_id, 0, "open", dumps(to_json(request)).encode())


def read_open(key: NodeKey, frame: Frame) -> Open:
    """Parse the request in an `open` frame; a stale one or one for another node raises `ContractError`."""
    request = from_json(Open, loads(frame.data))
    check_id(request.hub)
    if request.node != key.node:
        raise ContractError(f"stream for node {request.node!r} came to {key.node!r}")
    if not time.time() - CLOCK_SKEW_S < request.expires_at < time.time() + 600 + CLOCK_SKEW_S:
        raise ContractError("request for a stream is stale")
    if not 0 < request.credit <= 64 * 1024 * 1024:
        raise ContractError("credit out of range")
    return request


def terminal_size(facts: dict[str, Any]) -> tuple[int, int]:
    """Return width and height of a `resize`, each from 1 to 65535, else raise `ContractError`."""
    values = (facts.get("width"), facts.get("height"))
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TERMINAL:
            raise ContractError("a terminal has 1 to 65535 columns and rows")
    width, height = values
    assert isinstance(width, int)
    assert isinstance(height, int)
    return width, height


@dataclass(frozen=True)
class _Header:
    id: str
    n: int
    t: str
    ch: int = 0
    c: str = ""
    m: dict[str, Any] = field(default_factory=dict)
