"""Catalogs, tags and searches: pages followed once each, foreign text taken as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.db import Database
from engine.errors import ImageNotFound, InvalidInput
from engine.images.search import Searcher, SearchResult, _result, split_term
from engine.reference import parse_reference
from engine.registry import AccessRefused, BadContent, NotARegistry, Registries, RetryPolicy
from engine.registry.realms import SCHEMA, RealmBook
from tests.support.fake_registry import Exchange, FakeRegistry, reply


@pytest.fixture
def searcher() -> Searcher:
    return Searcher(Registries(insecure=("127.0.0.1",), retry=RetryPolicy(attempts=2, base_s=0.01)))


def test_all_pages_of_a_catalog_are_read(searcher: Searcher) -> None:
    names = [f"team/app-{number:03}" for number in range(25)]
    with FakeRegistry() as registry:
        registry.on("GET", "_catalog", in_pages_of_ten(names), times=99)
        assert searcher.catalog(registry.domain) == names
        assert registry.count("GET", "_catalog") == 3


def in_pages_of_ten(names: list[str]) -> Callable[[Exchange], None]:
    def action(exchange: Exchange) -> None:
        start = int(exchange.path.partition("last=")[2].partition("&")[0] or 0)
        more = (
            {"Link": f'</v2/_catalog?last={start + 10}&n=10>; rel="next"'} if start + 10 < len(names) else {}
        )
        exchange.reply(200, json.dumps({"repositories": names[start : start + 10]}).encode(), more)

    return action


def test_a_link_that_loops_ends(searcher: Searcher) -> None:
    """RG-11: `Link` loop."""
    with FakeRegistry() as registry:
        link = {"Link": '</v2/_catalog?n=1000>; rel="next"'}
        registry.on("GET", "_catalog", reply(200, b'{"repositories": ["a"]}', link), times=999)
        assert searcher.catalog(registry.domain) == ["a"]
        assert registry.count("GET", "_catalog") == 1


def test_a_link_that_never_ends_is_cut(searcher: Searcher) -> None:
    """RG-11: another address on every page."""
    with FakeRegistry() as registry:

        def action(exchange: Exchange) -> None:
            link = {"Link": f'</v2/_catalog?n={registry.count("GET", "_catalog")}>; rel="next"'}
            exchange.reply(200, b'{"repositories": ["a"]}', link)

        registry.on("GET", "_catalog", action, times=999)
        assert searcher.catalog(registry.domain) == ["a"]
        assert registry.count("GET", "_catalog") == 100


def test_a_link_to_another_host_is_not_followed(searcher: Searcher) -> None:
    """RG-06: the next page is the registry's own."""
    with FakeRegistry() as other, FakeRegistry() as registry:
        link = {"Link": f'<{other.url}/v2/_catalog>; rel="next"'}
        registry.on("GET", "_catalog", reply(200, b'{"repositories": ["a"]}', link))
        assert searcher.catalog(registry.domain) == ["a"]
        assert other.requests == []


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"repositories": {}}', b"\xff", b"[" * 5000])
def test_a_catalog_that_is_none_is_said_so(searcher: Searcher, body: bytes) -> None:
    with FakeRegistry() as registry:
        registry.on("GET", "_catalog", reply(200, body), times=9)
        with pytest.raises(BadContent):
            searcher.catalog(registry.domain)


def test_a_registry_without_a_catalog(searcher: Searcher) -> None:
    with FakeRegistry() as registry:
        registry.on("GET", "_catalog", reply(404, b'{"errors":[]}'), times=9)
        with pytest.raises(AccessRefused):
            searcher.catalog(registry.domain)


def test_tags_of_a_repository(searcher: Searcher) -> None:
    with FakeRegistry() as registry:
        for tag in ("2", "1", "latest"):
            registry.add_image("team/app", tag, [])
        assert searcher.tags(parse_reference(f"{registry.domain}/team/app")) == ["1", "2", "latest"]
        with pytest.raises(ImageNotFound):
            searcher.tags(parse_reference(f"{registry.domain}/team/ap"))


def test_a_search_in_a_registry_looks_through_its_catalog(searcher: Searcher) -> None:
    with FakeRegistry() as registry:
        registry.add_image("team/web", "1", [])
        registry.add_image("team/api", "1", [])
        assert searcher.search(f"{registry.domain}/WEB") == [SearchResult(f"{registry.domain}/team/web")]


def test_a_web_server_is_no_registry(searcher: Searcher) -> None:
    with FakeRegistry() as registry:
        registry.on("GET", "/", reply(404, b"<html>"), times=99)
        with pytest.raises(NotARegistry):
            searcher.tags(parse_reference(f"{registry.domain}/team/app"))


def test_what_docker_hub_answers_is_read_as_text() -> None:
    entry = {
        "name": "library/nginx",
        "description": "Official\n build\x00",
        "star_count": 7,
        "is_official": True,
    }
    assert _result(entry) == SearchResult("nginx", "Official  build", 7, True)
    assert _result({"name": "<script>"}) is None
    assert _result({"name": "a/b", "star_count": "many", "description": None}) == SearchResult("a/b")


@pytest.mark.parametrize("term", ["", " ", "x" * 300, "a\nb", "registry.lan:99999999/x y", "a..b/x"])
def test_a_term_that_finds_nothing_is_refused_or_harmless(term: str) -> None:
    try:
        domain, _ = split_term(term)
    except InvalidInput:
        return
    assert domain


def test_the_first_use_of_a_token_server_is_an_event(tmp_path: Path) -> None:
    """RG-05: first use shown to an administrator."""
    db = Database(tmp_path / "engine.db", [SCHEMA])
    book = RealmBook(db)
    for _ in range(3):
        book.seen("docker.io", "auth.docker.io")
    assert [(event.type, event.action, event.attributes["host"]) for event in db.events_after(0)] == [
        ("registry", "realm", "auth.docker.io")
    ]
    assert book.hosts("docker.io") == ["auth.docker.io"]
