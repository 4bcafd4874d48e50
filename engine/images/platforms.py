"""Which of an index's images fits a platform.

A processor runs what was made for its own variant and for lower ones (`linux/arm/v7` runs `v6`), never for higher ones. Source:
OCI image specification, image-index.md; the values are Go's GOOS and GOARCH.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.errors import ImageNotFound, InvalidInput
from engine.oci.descriptor import Descriptor
from engine.platform import Platform, host_platform

_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,30}\Z")
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})
_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm/v7",
    "armel": "arm/v6",
}
_USUAL_VARIANT = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def parse_platform(text: str) -> Platform:
    """Read `linux/arm/v7`, `arm64`, `linux` or `x86_64`; what is left out is this host's."""
    host = host_platform()
    words = text.strip().lower().split("/")
    if not 1 <= len(words) <= 3 or not all(_WORD.match(word) for word in words):
        raise InvalidInput(
            f"not a platform: {text[:80]!r}",
            hint="a platform is os/architecture[/variant], such as linux/arm64",
        )
    if len(words) == 1 and words[0] in _SYSTEMS:
        return Platform(words[0], host.architecture, host.variant)
    if words[0] not in _SYSTEMS and len(words) < 3:
        words.insert(0, "linux")
    system, architecture, *variant = words
    architecture, _, implied = _ALIASES.get(architecture, architecture).partition("/")
    return Platform(system, architecture, variant[0] if variant else implied)


def choose(candidates: Iterable[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """Return the entry of an index that fits `wanted` best; raises `ImageNotFound` naming the platforms there are."""
    entries = [entry for entry in candidates if not _is_attestation(entry)]
    ranked = [
        (distance, number)
        for number, entry in enumerate(entries)
        if (distance := _distance(entry.platform, wanted)) is not None
    ]
    if ranked:
        return entries[min(ranked)[1]]
    unnamed = [entry for entry in entries if entry.platform is None or not entry.platform.architecture]
    if unnamed:
        return unnamed[0]  # its config will say; the pull checks it
    there = ", ".join(sorted({str(entry.platform) for entry in entries})) or "none"
    raise ImageNotFound(f"{what} has no image for {wanted}", hint=f"it has: {there[:300]}")


def fits(platform: Platform, wanted: Platform) -> bool:
    """Tell whether an image made for `platform` is what was asked for."""
    return _distance(platform, wanted) is not None


def _distance(platform: Platform | None, wanted: Platform) -> int | None:
    """Return 0 for the same platform, more for a lower variant, None for one that does not fit."""
    if platform is None or (platform.os, platform.architecture) != (wanted.os, wanted.architecture):
        return None
    has, needs = (_variant(one) for one in (platform, wanted))
    if has == needs:
        return 0
    if (
        has.removeprefix("v").isdigit()
        and needs.removeprefix("v").isdigit()
        and int(has[1:]) < int(needs[1:])
    ):
        return int(needs[1:]) - int(has[1:])
    return None


def _variant(platform: Platform) -> str:
    return platform.variant or _USUAL_VARIANT.get(platform.architecture, "")


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.architecture == "unknown"
