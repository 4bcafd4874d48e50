"""DNS messages against an independent library, and against rubbish."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.network import dnsmessage as message
from engine.network.dnsmessage import BadMessage


def question(name: str, kind: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, kind).pack())


def test_question_is_read() -> None:
    query = message.parse_query(question("Db.Backend.", "AAAA"))
    assert (query.name, query.type, query.recursion, query.size) == ("db.backend", message.AAAA, True, 512)


def test_size_of_the_asker_is_respected_within_bounds() -> None:
    for asked, size in ((1232, 1232), (100, 512), (65535, 4096)):
        record = dnslib.DNSRecord.question("db")
        record.add_ar(dnslib.EDNS0(udp_len=asked))
        assert message.parse_query(record.pack()).size == size


def test_answer_is_what_another_library_reads() -> None:
    query = message.parse_query(question("db"))
    reply = dnslib.DNSRecord.parse(message.answer(query, ["10.5.0.2", "10.5.0.3"], ttl=2))
    assert [str(record.rdata) for record in reply.rr] == ["10.5.0.2", "10.5.0.3"]
    assert {str(record.rname) for record in reply.rr} == {"db."}
    assert reply.header.qr
    assert reply.header.aa
    assert not reply.header.tc


def test_ipv6_answer_is_what_another_library_reads() -> None:
    query = message.parse_query(question("db", "AAAA"))
    reply = dnslib.DNSRecord.parse(message.answer(query, ["fd00:5::2"], ttl=2))
    assert [str(record.rdata) for record in reply.rr] == ["fd00:5::2"]


def test_answer_too_long_is_cut_and_says_so() -> None:
    query = message.parse_query(question("db"))
    packed = message.answer(query, [f"10.5.0.{number}" for number in range(200)], ttl=2, limit=512)
    reply = dnslib.DNSRecord.parse(packed)
    assert len(packed) <= 512
    assert reply.header.tc
    assert len(reply.rr) == 30


def test_reverse_answer_is_what_another_library_reads() -> None:
    query = message.parse_query(question("2.0.5.10.in-addr.arpa", "PTR"))
    reply = dnslib.DNSRecord.parse(message.answer_pointer(query, ["db.backend"], ttl=2))
    assert [str(record.rdata) for record in reply.rr] == ["db.backend."]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("2.0.5.10.in-addr.arpa", "10.5.0.2"),
        ("0.5.10.in-addr.arpa", None),
        ("x.0.5.10.in-addr.arpa", None),
        ("2." + "0." * 15 + "5.0.0.0." + "0." * 8 + "0.0.d.f.ip6.arpa", "fd00:0:0:5::2"),
        ("d.f.ip6.arpa", None),
        ("example.com", None),
    ],
)
def test_reverse_names(name: str, address: str | None) -> None:
    found = message.pointer_address(name)
    assert (None if found is None else str(found)) == address


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", None),
        (bytes(11), None),
        (bytes(12), message.FORMERR),
        (question("db")[:-3], message.FORMERR),
        (b"\0\1\x81\0" + question("db")[4:], None),
        (b"\0\1\x28\0" + question("db")[4:], message.NOTIMP),
        (question("db")[:12] + b"\xc0\x0c\0\1\0\1", message.FORMERR),
        (question("db")[:-2] + b"\0\3", message.REFUSED),
    ],
    ids=[f"case{number}" for number in range(8)],  # a question has a random id
)
def test_what_is_no_question_is_answered_with_its_code_or_not_at_all(data: bytes, code: int | None) -> None:
    with pytest.raises(BadMessage) as raised:
        message.parse_query(data)
    assert (raised.value.reply[3] & 15 if raised.value.reply else None) == code


def spoiled(message: bytes) -> st.SearchStrategy[bytes]:
    """A message with some bytes replaced, or other bytes altogether."""
    some = st.dictionaries(st.integers(0, len(message) - 1), st.integers(0, 255), max_size=4)
    return st.binary(max_size=600) | some.map(
        lambda changes: bytes(changes.get(at, byte) for at, byte in enumerate(message))
    )


def read(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """Return what a reader makes of bytes, its refusal included."""
    try:
        return parse(data)
    except BadMessage as error:
        return error


@given(spoiled(question("db.backend")))
def test_rubbish_is_refused_or_read_as_what_it_says(data: bytes) -> None:
    found = read(message.parse_query, data)
    if isinstance(found, BadMessage):
        # silent, or an answer to this very question: its id, and marked as an answer
        assert not found.reply or (found.reply[:2] == data[:2] and found.reply[2] & 0x80)
    else:
        assert found.id == int.from_bytes(data[:2], "big")
        assert len(found.name) <= 254
        assert 512 <= found.size <= 4096


@given(spoiled(message.answer(message.parse_query(question("db")), ["10.5.0.2", "fd00::2"], ttl=1)))
def test_rubbish_of_a_resolver_holds_addresses_or_is_refused(data: bytes) -> None:
    found = read(message.parse_answer, data)
    if isinstance(found, BadMessage):
        assert str(found)
    else:
        identity, code, addresses = found
        assert identity == int.from_bytes(data[:2], "big")
        assert 0 <= code <= 15
        assert [str(ip_address(address)) for address in addresses] == addresses


@given(st.from_regex(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True))
def test_every_name_comes_back_as_it_went(name: str) -> None:
    query = message.parse_query(message.make_query(7, name, message.A))
    assert (query.name, query.id) == (name, 7)
    assert message.parse_answer(message.answer(query, ["10.5.0.2"], ttl=1)) == (
        7,
        message.NOERROR,
        ["10.5.0.2"],
    )
