"""Mounts as people write them: `NAME:/path[:ro]`, `/host:/path[:ro]`, `/path` (an anonymous volume)."""

from __future__ import annotations

from typing import Any

from webapp.core.errors import Invalid
from webapp.core.ids import is_name

OPTIONS = frozenset({"rw", "ro", "z", "Z", "nocopy", "copy"})
PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})


def parse_mount(text: str) -> dict[str, Any]:
    """Return the mount of one word as a dictionary with the fields of a spec's `mounts`, else raise `Invalid`."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[-1]:
        raise _bad(text, "not SOURCE:TARGET[:OPTIONS]")
    if len(parts) == 1:
        return _mount("volume", "", _target(parts[0], text), set())
    options = set(parts[2].split(",")) if len(parts) == 3 else set()
    if unknown := options - OPTIONS - PROPAGATION:
        raise _bad(text, f"unknown option {sorted(unknown)[0]!r}")
    source, target = parts[0], _target(parts[1], text)
    if source.startswith("/"):
        return _mount("bind", source, target, options) | {"create_source": True}
    if not is_name(source):
        raise _bad(text, f"{source[:60]!r} is neither a volume's name nor an absolute path")
    return _mount("volume", source, target, options)


def _mount(kind: str, source: str, target: str, options: set[str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"type": kind, "source": source, "target": target, "read_only": "ro" in options}
    if "nocopy" in options:
        mount["nocopy"] = True
    if propagation := sorted(options & PROPAGATION):
        mount["propagation"] = propagation[0]
    return mount


def _target(path: str, text: str) -> str:
    if not path.startswith("/") or path == "/" or "\0" in path:
        raise _bad(text, "the target must be an absolute path below /")
    return path


def _bad(text: str, why: str) -> Invalid:
    return Invalid(
        f"mount {text[:200]!r}: {why}",
        fields={"mounts": [why]},
        hint="like data:/var/lib/data or /srv/www:/www:ro",
    )
