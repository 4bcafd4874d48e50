"""Headers and bodies that a registry sends to be read: whatever they hold, reading ends and secrets stay inside."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.challenge import Challenge, parse_challenges
from engine.registry.client import next_link
from engine.registry.errors import error_of, error_text, redact
from engine.registry.retry import RetryPolicy, retry_after_s


def test_a_bearer_challenge() -> None:
    header = 'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push"'
    expected = {
        "realm": "https://auth.example/token",
        "service": "registry",
        "scope": "repository:a/b:pull,push",
    }
    assert parse_challenges([header]) == [Challenge("bearer", expected)]


def test_several_challenges_in_one_header_and_in_several() -> None:
    found = parse_challenges(['Negotiate abc==, Basic realm="a \\"b\\"", charset=utf-8', "BEARER realm=x"])
    assert [challenge.scheme for challenge in found] == ["negotiate", "basic", "bearer"]
    assert found[1].parameters == {"realm": 'a "b"', "charset": "utf-8"}


@given(st.lists(st.text(max_size=300), max_size=4))
def test_no_challenge_makes_the_reader_raise(headers: list[str]) -> None:
    """RG-11: fuzzed `WWW-Authenticate`."""
    found = parse_challenges(headers)
    read = [challenge.scheme for challenge in found] + [
        text for challenge in found for item in challenge.parameters.items() for text in item
    ]
    assert sum(map(len, read)) <= sum(map(len, headers))  # nothing is made up
    assert all(scheme == scheme.lower() and scheme for scheme in (challenge.scheme for challenge in found))


@pytest.mark.parametrize(
    "text", ['Bearer realm="' + "\\" * 100_000, "a=" * 50_000, "," * 100_000, 'x="' * 30_000]
)
def test_long_hostile_challenges_are_read_quickly(text: str) -> None:
    """RG-11: no header costs more than its length."""
    started = time.thread_time()
    found = parse_challenges([text])
    assert time.thread_time() - started < 1
    assert {challenge.scheme for challenge in found} <= {"bearer", "realm", "a", "x"}


@given(st.lists(st.text(max_size=300), max_size=4))
def test_no_link_makes_the_reader_raise(headers: list[str]) -> None:
    """RG-11: fuzzed `Link`."""
    link = next_link(headers)
    assert not link or any(f"<{link}>" in header for header in headers)


def test_next_link() -> None:
    assert next_link(['</v2/_catalog?last=b&n=2>; rel="next"']) == "/v2/_catalog?last=b&n=2"
    assert next_link(["<x>; rel=prev, <y>; rel=next"]) == "y"
    assert next_link(["<x>; rel=prev"]) == ""


@given(st.one_of(st.none(), st.text(max_size=100)))
def test_retry_after_is_seconds_or_nothing(text: str | None) -> None:
    """RG-11: fuzzed `Retry-After`."""
    seconds = retry_after_s(text)
    assert seconds is None or seconds >= 0


def test_retry_after_reads_numbers_and_dates() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_backoff_grows_to_its_cap_with_jitter() -> None:
    policy = RetryPolicy(base_s=1, cap_s=8)
    assert all(0.5 <= policy.delay_s(1) <= 1 for _ in range(20))
    assert all(4 <= policy.delay_s(9) <= 8 for _ in range(20))
    assert len({policy.delay_s(3) for _ in range(20)}) > 1


@given(st.binary(max_size=400))
def test_no_error_body_makes_the_reader_raise(body: bytes) -> None:
    code, message = error_text(body)
    assert len(code) <= 60
    assert len(message) <= 300
    assert (code + message).isprintable()


def test_an_error_page_that_echoes_the_secret_is_redacted() -> None:
    """RG-09: a 401 page with the header, and a token in an address."""
    secret = "c2VjcmV0LXRva2VuLXZhbHVl"
    body = (
        b'{"errors":[{"code":"DENIED","message":"got Authorization: Bearer %s from '
        b'https://alice:pw@cdn.example/x?token=%s \\u001b[31m\\u202e"}]}' % (secret.encode(), secret.encode())
    )
    error = error_of(403, body, host="registry.example", what="team/app:1", logged_in=True, secrets=[secret])
    assert secret not in error.message
    assert "alice:pw" not in error.message
    assert "\x1b" not in error.message
    assert "\u202e" not in error.message


def test_what_looks_like_a_secret_is_redacted_even_when_unknown() -> None:
    """RG-09: basic and bearer values, tokens and passwords by name."""
    text = redact("Basic YWxpY2U6cGFzcw== eyJhbGciOi.JIUzI1NiJ9.abc password=hunter22 https://x/y?sig=abc")
    assert "YWxpY2U6" not in text
    assert "eyJhbGciOi" not in text
    assert "hunter22" not in text
    assert "sig=abc" not in text
    assert len(redact("x" * 10_000)) <= 300
