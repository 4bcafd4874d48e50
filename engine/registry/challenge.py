"""The `WWW-Authenticate` header, read without trust: whatever it holds, reading ends, and never with an error.

Source: RFC 9110, section 11.6.1. Several challenges may stand in one header and in several headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_MAX_HEADER = 8192
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf"\s*,*\s*(?:(?P<key>{_TOKEN})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>{_TOKEN}))"
    rf"|(?P<scheme>{_TOKEN})(?:[ \t]+(?P<opaque>[A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|$)))?)"
)


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate: the scheme in lower case and its parameters, names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all `WWW-Authenticate` headers in order; what cannot be read is left out."""
    challenges: list[Challenge] = []
    for header in headers:
        position, text = 0, header[:_MAX_HEADER]
        while match := _PART.match(text, position):
            if match.end() == position:
                break
            position = match.end()
            if scheme := match["scheme"]:
                challenges.append(Challenge(scheme.lower()))
            elif challenges:
                value = (
                    match["plain"] if match["quoted"] is None else re.sub(r"\\(.)", r"\1", match["quoted"])
                )
                challenges[-1].parameters.setdefault(match["key"].lower(), value)
    return challenges
