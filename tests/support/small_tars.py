"""Small tar archives in memory, to put into containers and to look into."""

from __future__ import annotations

import io
import tarfile


def make(
    entries: dict[str, bytes | None],
    *,
    links: dict[str, str] | None = None,
    owner: int = 0,
    mode: int = 0o644,
) -> bytes:
    """Return a tar of files (None: a folder) and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = owner
            if data is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(data), mode
                archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def contents(data: bytes) -> dict[str, bytes | None]:
    """Return names and bytes of a tar's files; None for folders, the target for links."""
    found: dict[str, bytes | None] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            file = archive.extractfile(entry) if entry.isfile() else None
            found[entry.name] = file.read() if file else entry.linkname.encode() if entry.issym() else None
    return found


def owners(data: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: (entry.uid, entry.gid) for entry in archive}
