"""DNS messages: questions read strictly, answers written by hand (RFC 1035, RFC 6891).

Only what a resolver for containers needs: one question, address and pointer records. Messages that are forwarded pass
through as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

UDP_SIZE = 512
_HEADER = struct.Struct(">HHHHHH")
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_ASKED, _RECURSION_HERE = (
    0x8000,
    0x0400,
    0x0200,
    0x0100,
    0x0080,
)
_POINTER_TO_QUESTION = b"\xc0\x0c"


class BadMessage(ValueError):
    """The bytes are no DNS query; `reply` is what to answer, empty when not even that can be said."""

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


@dataclass(frozen=True)
class Query:
    """A question. `name` is lower case without the last dot; `size` is the largest answer that fits the asker's UDP."""

    id: int
    name: str
    type: int
    question: bytes
    recursion: bool
    size: int


def parse_query(data: bytes) -> Query:
    """Return the question in a message, else raise `BadMessage`."""
    if len(data) < 12:
        raise BadMessage("shorter than a header")
    identity, flags, questions, answers, _, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise BadMessage("an answer, not a question")
    if flags >> 11 & 0xF:
        raise BadMessage("not a plain query", _failure(identity, flags, NOTIMP))
    if questions != 1 or answers:
        raise BadMessage("not one question", _failure(identity, flags, FORMERR))
    try:
        labels, end = _labels(data, 12)
        kind, group = struct.unpack_from(">HH", data, end)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BadMessage("a broken question", _failure(identity, flags, FORMERR)) from error
    if group not in (IN, ANY):
        raise BadMessage("not a question about the internet", _failure(identity, flags, REFUSED))
    size = _edns_size(data, end + 4) if additional else UDP_SIZE
    name = ".".join(labels).lower()
    return Query(identity, name, kind, data[12 : end + 4], bool(flags & _RECURSION_ASKED), size)


def answer(query: Query, addresses: Sequence[str], *, ttl: int, limit: int = 65535) -> bytes:
    """Return the answer with these addresses; those that do not fit `limit` are left out and the flag for it is set."""
    records = [_address_record(text, ttl) for text in addresses]
    return _reply(query, records, NOERROR, limit)


def answer_pointer(query: Query, names: Sequence[str], *, ttl: int) -> bytes:
    """Return the answer to a reverse lookup."""
    records = []
    for name in names:
        packed = pack_name(name)
        records.append(_POINTER_TO_QUESTION + struct.pack(">HHIH", PTR, IN, ttl, len(packed)) + packed)
    return _reply(query, records, NOERROR, 65535)


def failure(query: Query, code: int) -> bytes:
    """Return an answer without records; `NOERROR` says "the name is known, but not with such a record"."""
    return _reply(query, [], code, 65535)


def pointer_address(name: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a name like `4.3.2.1.in-addr.arpa` asks about, None for other names."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name.removesuffix(".in-addr.arpa").split(".")
            return IPv4Address(".".join(reversed(parts))) if len(parts) == 4 else None
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        return None
    return None


def pack_name(name: str) -> bytes:
    """Return a name as labels; what cannot be a label is left out."""
    labels = [label.encode("ascii", "ignore")[:63] for label in name.split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels if label) + b"\0"


def make_query(identity: int, name: str, kind: int) -> bytes:
    """Return a question to send."""
    return (
        _HEADER.pack(identity, _RECURSION_ASKED, 1, 0, 0, 0) + pack_name(name) + struct.pack(">HH", kind, IN)
    )


def parse_answer(data: bytes) -> tuple[int, int, list[str]]:
    """Return (id, code, addresses) of an answer; raise `BadMessage` for what is none."""
    if len(data) < 12:
        raise BadMessage("shorter than a header")
    identity, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    try:
        offset = 12
        for _ in range(questions):
            offset = _skip_name(data, offset) + 4
        found = []
        for _ in range(answers):
            offset = _skip_name(data, offset)
            kind, _, _, size = struct.unpack_from(">HHIH", data, offset)
            offset += 10
            if kind in (A, AAAA) and size in (4, 16):
                found.append(str(ip_address(data[offset : offset + size])))
            offset += size
    except (IndexError, struct.error, ValueError) as error:
        raise BadMessage("a broken answer") from error
    return identity, flags & 0xF, found


def _reply(query: Query, records: Sequence[bytes], code: int, limit: int) -> bytes:
    size, fit = 12 + len(query.question), 0
    for record in records:
        size += len(record)
        if size > limit:
            break
        fit += 1
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_HERE | code
    flags |= (_RECURSION_ASKED if query.recursion else 0) | (_TRUNCATED if fit < len(records) else 0)
    return _HEADER.pack(query.id, flags, 1, fit, 0, 0) + query.question + b"".join(records[:fit])


def _address_record(text: str, ttl: int) -> bytes:
    packed = ip_address(text).packed
    kind = A if len(packed) == 4 else AAAA
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, IN, ttl, len(packed)) + packed


def _failure(identity: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(identity, _RESPONSE | (flags & 0x7900) | code, 0, 0, 0, 0)


def _labels(data: bytes, offset: int) -> tuple[list[str], int]:
    """Return the labels at `offset` and where they end; a question has no pointers."""
    labels = []
    total = 0
    while size := data[offset]:
        total += size + 1
        if size > 63 or total > 254 or offset + 1 + size > len(data):
            raise IndexError("a label too long")
        labels.append(data[offset + 1 : offset + 1 + size].decode("ascii"))
        offset += size + 1
    return labels, offset + 1


def _skip_name(data: bytes, offset: int) -> int:
    while size := data[offset]:
        if size >= 0xC0:
            return offset + 2
        offset += size + 1
    return offset + 1


def _edns_size(data: bytes, offset: int) -> int:
    """Return the size of an OPT record that follows the question, the plain size where there is none."""
    if len(data) >= offset + 5 and data[offset] == 0:
        kind, size = struct.unpack_from(">HH", data, offset + 1)
        if kind == OPT:
            return min(max(int(size), UDP_SIZE), 4096)
    return UDP_SIZE
