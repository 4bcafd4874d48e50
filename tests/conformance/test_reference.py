"""Image references agree with the tables of the distribution reference grammar, every case of every table."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadReference
from engine.reference import (
    DOMAIN,
    IDENTIFIER,
    NAME,
    REFERENCE,
    Reference,
    familiar_match,
    parse_any,
    parse_exact,
    parse_named,
    parse_reference,
    split_domain,
)
from tests.support.vectors import load_vectors

REASONS = {
    "ErrNameEmpty": "name_empty",
    "ErrReferenceInvalidFormat": "invalid_format",
    "ErrDigestInvalidLength": "digest_invalid",
    "ErrDigestUnsupported": "digest_unsupported",
    "ErrNameContainsUppercase": "uppercase",
    "ErrNameTooLong": "name_too_long",
}


def table(name: str) -> list[Any]:
    cases = load_vectors("reference", f"{name}.json")
    return [pytest.param(case, id=f"{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize("case", table("parse"))
def test_parse_exact_reads_a_reference_as_written(case: dict[str, str]) -> None:
    if "err" in case:
        with pytest.raises(BadReference) as caught:
            parse_exact(case["input"])
        assert caught.value.context["reason"] == REASONS[case["err"]]
        return
    reference = parse_exact(case["input"])
    expected = (case.get("domain", ""), case["repository"], case.get("tag", ""), case.get("digest"))
    assert (reference.domain, reference.name, reference.tag, reference.digest) == expected


@pytest.mark.parametrize("text", load_vectors("reference", "names_normalized.json")["valid"])
def test_parse_named_accepts(text: str) -> None:
    assert parse_named(text).domain


@pytest.mark.parametrize("text", load_vectors("reference", "names_normalized.json")["invalid"])
def test_parse_named_refuses(text: str) -> None:
    with pytest.raises(BadReference):
        parse_named(text)


@pytest.mark.parametrize("case", table("repository_info"))
def test_every_spelling_means_the_same_repository(case: dict[str, str]) -> None:
    for text in filter(None, (case["FamiliarName"], case["FullName"], case["AmbiguousName"])):
        reference = parse_named(text)
        assert (reference.familiar(), str(reference)) == (case["FamiliarName"], case["FullName"])
        assert (reference.domain, reference.path) == (case["Domain"], case["RemoteName"])


@pytest.mark.parametrize("case", table("docker_ref"))
def test_what_a_pull_resolves_to(case: dict[str, str]) -> None:
    reference = parse_reference(case["input"])
    resolved = (
        Reference(reference.domain, reference.path, "", reference.digest) if reference.digest else reference
    )
    assert str(resolved) == case["expected"]


@pytest.mark.parametrize("case", table("any_reference"))
def test_an_id_or_a_reference(case: dict[str, str]) -> None:
    assert str(parse_any(case["Reference"])) == case["Equivalent"]


@pytest.mark.parametrize("case", table("normalized_split_hostname"))
def test_split_domain(case: dict[str, str]) -> None:
    assert split_domain(case["input"]) == (case["domain"], case["path"])


@pytest.mark.parametrize("case", table("familiar_match"))
def test_familiar_match(case: dict[str, Any]) -> None:
    assert familiar_match(case["pattern"], parse_named(case["reference"])) is case["expected"]


@pytest.mark.parametrize("case", table("parse_named"))
def test_only_canonical_names_are_canonical(case: dict[str, str]) -> None:
    canonical = _canonical(case["input"])
    assert (canonical is None) == ("err" in case)
    if canonical is not None:
        assert (canonical.domain, canonical.path) == (case["domain"], case["path"])


def _canonical(text: str) -> Reference | None:
    reference = parse_named(text)
    return reference if str(reference) == text else None


@pytest.mark.parametrize("case", table("with_name_failure"))
def test_a_name_is_nothing_but_a_name(case: dict[str, str]) -> None:
    text = case["input"]
    assert not NAME.fullmatch(text) or len(text) > 255


@pytest.mark.parametrize("case", [*table("with_tag"), *table("with_digest")])
def test_text_is_name_tag_and_digest_together(case: dict[str, str]) -> None:
    name = parse_exact(case["name"])
    reference = Reference(name.domain, name.path, case.get("tag", ""), case.get("digest"))  # type: ignore[arg-type]
    assert str(reference) == case["combined"]


@pytest.mark.parametrize("case", table("domain_regexp"))
def test_domain_grammar(case: dict[str, Any]) -> None:
    assert bool(DOMAIN.fullmatch(case["input"])) is case["match"]


@pytest.mark.parametrize("case", table("identifier_regexp"))
def test_identifier_grammar(case: dict[str, Any]) -> None:
    assert bool(IDENTIFIER.fullmatch(case["input"])) is case["match"]


@pytest.mark.parametrize("case", table("fullname_regexp"))
def test_name_grammar(case: dict[str, Any]) -> None:
    match = NAME.fullmatch(case["input"])
    assert bool(match) is case["match"]
    if match and "subs" in case:
        assert [group or "" for group in match.groups()] == case["subs"]


@pytest.mark.parametrize("case", table("reference_regexp"))
def test_reference_grammar(case: dict[str, Any]) -> None:
    match = REFERENCE.fullmatch(case["input"])
    assert bool(match) is case["match"]
    if match:
        assert [group or "" for group in match.groups()] == case["subs"]


@pytest.mark.parametrize(
    "text", ["good#@evil/x", "dеbian", "user:pw@host/x", "deb\nian", "x" * 5000, "a/b:tag\n", "‮nginx"]
)
def test_hostile_names_are_refused(text: str) -> None:
    """RG-07: what looks like another name, or carries a password, is no reference."""
    with pytest.raises(BadReference):
        parse_reference(text)


def test_tag_and_digest_stand_together() -> None:
    digest = "sha256:" + "a" * 64
    reference = parse_reference(f"debian:12@{digest}")
    assert (reference.tag, reference.digest, reference.target) == ("12", digest, digest)
    assert str(reference.without_digest()) == "docker.io/library/debian:12"
