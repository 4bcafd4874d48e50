"""Names in archives: where an entry may land.

A name is taken relative to the root of the archive whatever it looks like: a leading `/` means nothing, `.` and empty
components neither. `..` is refused: no honest tool writes it.
"""

from __future__ import annotations

from engine.errors import BadArchive

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
RESERVED = ".wh..wh."  # aufs' own bookkeeping in old layers


def clean_name(name: str, *, entry: str = "", max_depth: int = 256) -> str:
    """Return `name` as components joined by single slashes, empty for the root itself; raises `BadArchive`."""
    if "//" in name or "./" in name or name.startswith(("/", ".")) or name.endswith(("/", "/.", "/..")):
        parts = [part for part in name.split("/") if part and part != "."]
        if ".." in parts:
            raise BadArchive(f"the name {shown(name)} leads out of the archive", entry=entry or name)
        name = "/".join(parts)
    if name.count("/") >= max_depth:
        raise BadArchive(f"a name of more than {max_depth} levels", entry=(entry or name)[:200])
    return name


def shown(name: str) -> str:
    """Return a name as people can read it in a message: quoted, escaped, not longer than a line."""
    return repr(name if len(name) <= 120 else name[:100] + "…" + name[-16:])
