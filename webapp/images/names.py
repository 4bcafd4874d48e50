"""Names of images as people write them and as they are stored (grammar: distribution/reference, as Docker normalises).

The node has the last word; this is for finding records and for telling of a typing error at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from webapp.core.errors import Invalid

DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?\Z",
    re.ASCII,
)
_HEX_ID = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Name:
    """A normalised reference; `tag` is empty only beside a digest."""

    domain: str
    path: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.domain}/{self.path}{self._suffix(self.tag)}"

    def familiar(self) -> str:
        """Return the short form that people write: without Docker Hub's own parts."""
        path = self.path
        if self.domain == DEFAULT_DOMAIN:
            short = path.removeprefix(_OFFICIAL)
            path = short if "/" not in short else path
        else:
            path = f"{self.domain}/{path}"
        return f"{path}{self._suffix(self.tag)}"

    def _suffix(self, tag: str) -> str:
        return (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_name(text: str) -> Name:
    """Parse and normalise a reference, else raise `Invalid` that says what is wrong."""
    if _HEX_ID.match(text):
        raise Invalid(f"{text[:12]}… is an id, not a name", code="bad_reference")
    domain, path = _split_domain(text)
    remote = path.partition("@")[0].rpartition(":")[0] or path.partition("@")[0]
    if remote != remote.lower():
        raise Invalid(
            f"the name {text[:100]!r} has capital letters",
            code="bad_reference",
            hint="image names are lower case",
        )
    match = _REFERENCE.match(f"{domain}/{path}")
    if match is None or len(match["name"]) > 255:
        raise Invalid(
            f"{text[:100]!r} is no image name",
            code="bad_reference",
            hint="like nginx, team/app:1 or host:5000/app",
        )
    digest = match["digest"] or ""
    name = match["name"].partition("/")[2]
    return Name(domain, name, match["tag"] or ("" if digest else "latest"), digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, text)
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
