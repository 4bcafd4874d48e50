"""Image references: what people call images, in the grammar and with the normal form of Docker.

    nginx                         → docker.io/library/nginx:latest
    team/app:1                    → docker.io/team/app:1
    127.0.0.1:5000/app@sha256:…   → the same; a digest needs no tag

`parse_reference` reads what a person typed; a `Reference` is always complete. `familiar()` goes the other way, to the
short form that people read. `parse_exact` reads a reference as written, without any default.
Source: the distribution reference grammar (github.com/distribution/reference, `reference.go` and `normalize.go`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.digest import Digest, parse_digest
from engine.errors import BadDigest, BadReference

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_MAX_PATH = 255
_MAX_TEXT = 2048

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

DOMAIN = re.compile(_DOMAIN)
NAME = re.compile(rf"(?:({_DOMAIN})/)?({_PATH})")
REFERENCE = re.compile(rf"((?:{_DOMAIN}/)?{_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
IDENTIFIER = re.compile(r"[0-9a-f]{64}")
TAG = re.compile(_TAG)


@dataclass(frozen=True)
class Reference:
    """A repository of a registry (`domain`, `path`) and what is meant in it: `tag`, `digest`, both or neither.

    `domain` is empty only in what `parse_exact` returns. The tag is kept beside a digest, but the digest decides.
    """

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The repository with its registry, without tag and digest."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    @property
    def familiar_name(self) -> str:
        """`name` as people write it: without `docker.io` and `library`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in rest else rest

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or DEFAULT_TAG

    def familiar(self) -> str:
        """Return the whole reference as people write it."""
        return self.familiar_name + self._suffix()

    def with_tag(self, tag: str) -> Reference:
        """Return the same repository and digest with `tag`, else raise `BadReference`."""
        if not TAG.fullmatch(tag):
            raise BadReference(
                f"not a tag: {tag[:150]!r}", hint="letters, digits, _ . -, at most 128, not . or - first"
            )
        return replace(self, tag=tag)

    def with_digest(self, digest: Digest) -> Reference:
        return replace(self, digest=digest)

    def without_digest(self) -> Reference:
        """Return the name as it is stored for an image: with its tag, `latest` where there was only a digest."""
        return replace(self, digest=None, tag=self.tag or DEFAULT_TAG)

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read what a person typed; add registry, `library/` and, where there is neither tag nor digest, `latest`.

    Raises `BadReference`, with the reason as one word in its context (`reason`).
    """
    named = parse_named(text)
    return named if named.tag or named.digest else replace(named, tag=DEFAULT_TAG)


def parse_named(text: str) -> Reference:
    """Like `parse_reference`, but leave out the tag where none was typed."""
    if IDENTIFIER.fullmatch(text):
        raise _bad(text, "identifier", "64 hex digits are an image id, not a name")
    domain, rest = split_domain(text)
    path = rest.partition(":")[0].partition("@")[0]
    if path != path.lower():
        raise _bad(text, "uppercase", "the name of a repository is lower case")
    try:
        return parse_exact(f"{domain}/{rest}")
    except BadReference as error:
        raise _bad(text, str(error.context["reason"]), error.hint) from None


def parse_exact(text: str) -> Reference:
    """Read a reference as written: no default registry, no `library/`, no tag; else raise `BadReference`."""
    match = REFERENCE.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        if not text:
            raise _bad(text, "name_empty", "an image has a name, such as debian:12")
        if len(text) <= _MAX_TEXT and REFERENCE.fullmatch(text.lower()):
            raise _bad(text, "uppercase", "the name of a repository is lower case")
        raise _bad(text, "invalid_format", "an image is [registry[:port]/]name[:tag][@sha256:digest]")
    name, tag, digest = match.groups()
    parts = NAME.fullmatch(name)
    domain, path = parts.groups() if parts else ("", name)
    if len(path) > _MAX_PATH:
        raise _bad(text, "name_too_long", f"the name of a repository has at most {_MAX_PATH} characters")
    return Reference(domain or "", path, tag or "", _checked_digest(text, digest) if digest else None)


def parse_any(text: str) -> Reference | Digest:
    """Read an image id (64 hex digits or a digest) or a reference; a reference gets no default tag."""
    if IDENTIFIER.fullmatch(text):
        return Digest(f"sha256:{text}")
    try:
        return parse_digest(text)
    except BadDigest:
        return parse_named(text)


def split_domain(text: str) -> tuple[str, str]:
    """Split what a person typed into registry and the rest; a first part without dot, colon or capital is no registry."""
    first, slash, rest = text.partition("/")
    is_domain = first == "localhost" or "." in first or ":" in first or first != first.lower()
    if not slash or not is_domain:
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest


def familiar_match(pattern: str, reference: Reference) -> bool:
    """Tell whether the glob `pattern` (`*` and `?` stop at a slash) matches the familiar name, with or without tag."""
    expression = _glob(pattern)
    return bool(expression.fullmatch(reference.familiar()) or expression.fullmatch(reference.familiar_name))


def _checked_digest(text: str, digest: str) -> Digest:
    try:
        return parse_digest(digest)
    except BadDigest:
        algorithm = digest.partition(":")[0]
        reason = "digest_invalid" if algorithm == "sha256" else "digest_unsupported"
        raise _bad(text, reason, "a digest is sha256: and 64 lower-case hex digits") from None


def _glob(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a glob as Go's path.Match reads it, else raise `BadReference`."""
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                raise _bad(pattern, "bad_pattern", "a [ needs its ]")
            body = (
                pattern[position:end]
                .replace("[", r"\[")
                .replace("&&", r"&\&")
                .replace("||", r"|\|")
                .replace("~~", r"~\~")
            )
            parts.append(f"[{body}]")
            position = end + 1
        elif character == "\\" and position < len(pattern):
            parts.append(re.escape(pattern[position]))
            position += 1
        else:
            parts.append(re.escape(character))
    try:
        return re.compile("".join(parts))
    except re.error:
        raise _bad(pattern, "bad_pattern", "a pattern has * ? and [a-z]") from None


def _bad(text: str, reason: str, hint: str = "") -> BadReference:
    return BadReference(f"not an image reference: {text[:300]!r}", hint=hint, reason=reason)
