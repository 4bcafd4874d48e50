"""DNS messages against an independent library, and against rubbish."""

from __future__ import annotations

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


@given(st.binary(max_size=600))
def test_rubbish_never_breaks_the_reader(data: bytes) -> None:
    for read in (message.parse_query, message.parse_answer):
        try:
            read(data)
        except BadMessage:
            continue


@given(st.from_regex(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True))
def test_every_name_comes_back_as_it_went(name: str) -> None:
    query = message.parse_query(message.make_query(7, name, message.A))
    assert (query.name, query.id) == (name, 7)
    assert message.parse_answer(message.answer(query, ["10.5.0.2"], ttl=1)) == (
        7,
        message.NOERROR,
        ["10.5.0.2"],
    )
