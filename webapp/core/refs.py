"""Image references in paths: percent-encoded slashes are part of the name, whatever it ends in.

The server's handler turns an encoded slash into `HELD` before routing, and the converter turns it back; a reference
whose slashes were not encoded works too, as far as it is not ambiguous.
"""

from __future__ import annotations

from urllib.parse import unquote

HELD = "\x1f"


class RefConverter:
    """A path part that may hold slashes, as short as the route allows."""

    regex = r"[^/]+(?:/[^/]+)*?"

    def to_python(self, value: str) -> str:
        return value.replace(HELD, "/")

    def to_url(self, value: str) -> str:
        return value


def hold_slashes(raw_path: bytes) -> str | None:
    """Return the decoded path with encoded slashes held; None if there are none."""
    if b"%2f" not in raw_path.lower():
        return None
    return "/".join(
        unquote(part).replace("/", HELD) for part in raw_path.decode("ascii", "replace").split("/")
    )
