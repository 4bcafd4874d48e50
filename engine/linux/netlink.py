"""Netlink: how a process asks the kernel for links, addresses, routes, rules, filters and conntrack entries.

One `Netlink` is one socket of one protocol in one network namespace (a socket stays in the namespace it was made in,
whoever uses it). `request` sends messages in order and waits for every answer, `dump` reads a table. Messages are built
from `Message`, `attribute` and `nested`; what they mean is in `engine.linux.links` and `engine.linux.nft`.
Sources: netlink(7), rtnetlink(7), linux/netlink.h.

    with Netlink(NETLINK_ROUTE) as route:
        route.request(links.bridge("br0"))
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLA_F_NESTED = 0x8000
CLONE_NEWNET = 0x40000000

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _EXT_ACK, _GET_STRICT_CHECK = 270, 11, 12
_SO_RCVBUFFORCE = 33
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_RECEIVE_BYTES = 256 * 1024
_TIMEOUT_S = 10

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Message:
    """A request: its type, flags beside `NLM_F_REQUEST`, and the body. `what` names it in errors."""

    type: int
    body: bytes
    flags: int = 0
    what: str = ""


class Netlink:
    """A socket of the netlink `protocol`, in this thread's network namespace. Not for several threads at once."""

    def __init__(self, protocol: int, *, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        # not Python's timeout, under which MSG_DONTWAIT would wait
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT_S, 0))
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 * 1024 * 1024)
        if protocol == NETLINK_ROUTE:
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
        self._socket.bind((0, groups))
        self._sequence = 0

    def request(self, *messages: Message) -> None:
        """Carry the messages out one after another; stop at the first that fails and raise its `OSError`."""
        for message in messages:
            self._send(message, NLM_F_ACK)
            for kind, body in self._answers():
                if kind == _NLMSG_ERROR:
                    _raise_error(body, message)
                    break

    def transaction(self, messages: Sequence[Message], begin: Message, end: Message) -> None:
        """Send the messages between `begin` and `end` as one datagram, which the kernel does whole or not at all."""
        packed = bytearray()
        sent: dict[int, Message] = {}
        for message in (begin, *messages, end):
            self._sequence += 1
            sent[self._sequence] = message
            packed += _pack(
                message, NLM_F_ACK if message is not begin and message is not end else 0, self._sequence
            )
        self._socket.send(packed)
        # the kernel works inside send(), so every answer already waits here
        for sequence, kind, body in self._waiting():
            if kind == _NLMSG_ERROR and sequence in sent:
                _raise_error(body, sent[sequence])

    def dump(self, message: Message, parse: Callable[[bytes], T]) -> list[T]:
        """Return every entry of the table that `message` asks for, each through `parse`."""
        self._send(message, NLM_F_DUMP)
        found: list[T] = []
        for kind, body in self._answers():
            if kind == _NLMSG_DONE:
                return found
            if kind == _NLMSG_ERROR:
                _raise_error(body, message)
            else:
                found.append(parse(body))
        return found

    def get(self, message: Message) -> bytes:
        """Return the body of the one entry that `message` asks for."""
        self._send(message, 0)
        kind, body = next(self._answers())
        if kind == _NLMSG_ERROR:
            _raise_error(body, message)
        return body

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        if sock := getattr(self, "_socket", None):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: Message, flags: int) -> None:
        self._sequence += 1
        self._socket.send(_pack(message, flags, self._sequence))

    def _waiting(self) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        with suppress(BlockingIOError):
            while True:
                found += _split(self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT))
        return found

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            for sequence, kind, body in _split(self._socket.recv(_RECEIVE_BYTES)):
                if sequence == self._sequence:
                    yield kind, body


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """Return one attribute; an int takes four bytes in host order, a text ends with a zero byte."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in `data` by kind; of several of one kind the last one."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """Return the attributes in `data` in order, flags of the kind taken off."""
    found = []
    offset = 0
    while offset + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, offset)
        if size < 4:
            break
        found.append((kind & 0x3FFF, data[offset + 4 : offset + size]))
        offset += (size + 3) & ~3
    return found


def in_netns(netns: Path | int, work: Callable[[], T]) -> T:
    """Run `work` in the network namespace `netns` (a path or an open descriptor) and return what it returns.

    It runs in a thread of its own, so nothing else of this process leaves its namespace. Costs about 0.2 ms.
    """
    if isinstance(netns, Path):
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return in_netns(descriptor, work)
        finally:
            os.close(descriptor)
    descriptor = netns

    def inside() -> T:
        set_netns(descriptor)
        return work()

    return in_thread(inside)


def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a new thread, which may change its namespaces as it likes, and return what it returns."""
    done: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            done.append(work())
        except BaseException as error:  # carried over to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def set_netns(netns: int) -> None:
    """Move this thread into the network namespace `netns` (a descriptor)."""
    if _libc.setns(netns, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


def unshare_netns() -> None:
    """Give this thread a new network namespace."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"making a network namespace: {os.strerror(number)}")


def _pack(message: Message, flags: int, sequence: int) -> bytes:
    header = struct.pack(
        "=IHHII", 16 + len(message.body), message.type, message.flags | flags | NLM_F_REQUEST, sequence, 0
    )
    return header + message.body + bytes(-len(message.body) % 4)


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (sequence, type, body) of each message; an error's body begins with its flags."""
    offset = 0
    while offset + 16 <= len(data):
        size, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        body = data[offset + 16 : offset + size]
        yield sequence, kind, struct.pack("=H", flags) + body if kind == _NLMSG_ERROR else body
        offset += max(16, (size + 3) & ~3)


def _raise_error(body: bytes, message: Message) -> None:
    flags, code, size = struct.unpack_from("=HiI", body)
    if code == 0:
        return
    text = os.strerror(-code)
    if flags & _NLM_F_ACK_TLVS:
        start = 2 + 4 + (16 if flags & _NLM_F_CAPPED else (size + 3) & ~3)
        if detail := attributes(body[start:]).get(1):
            text = f"{text} ({detail.rstrip(bytes(1)).decode(errors='replace')})"
    raise OSError(-code, f"{message.what}: {text}" if message.what else text)
