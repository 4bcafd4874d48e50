"""Archives that ADD unpacks: a tar, packed or not, told by its content and never by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from engine.build.ops.place import Ownership
from engine.build.trees import Tree
from engine.errors import BadArchive
from engine.layers.compression import open_any
from engine.layers.confined import extract_entries
from engine.layers.limits import UPLOAD
from engine.layers.policy import ROOTFS_POLICY
from engine.layers.tar import Kind, TarEntry, TarReader
from engine.linux.files import opened

_POLICY = replace(ROOTFS_POLICY, fresh=False)


def is_archive(tree: Tree, place: str) -> bool:
    """Tell whether a file is a tar with at least one entry."""
    try:
        with os.fdopen(tree.open(place), "rb") as file:
            return TarReader(open_any(file, UPLOAD), UPLOAD).next() is not None
    except BadArchive:
        return False


def unpack_into(tree: Tree, place: str, folder: int, ownership: Ownership, check: Callable[[], None]) -> None:
    """Unpack the archive `place` into an open folder, which is closed afterwards; owners as it says, or as asked for."""
    with opened(folder), os.fdopen(tree.open(place), "rb") as file:
        reader = _Owned(TarReader(open_any(file, UPLOAD), UPLOAD, require_end=True), ownership)
        extract_entries(reader, folder, UPLOAD, _POLICY, check=check)


class _Owned:
    """The entries of an archive with the owner and mode that an instruction wants for them."""

    def __init__(self, reader: TarReader, ownership: Ownership) -> None:
        self._reader = reader
        self._ownership = ownership

    def __iter__(self) -> Iterator[TarEntry]:
        owner, mode = self._ownership.owner, self._ownership.mode
        for entry in self._reader:
            if owner is not None:
                entry = entry._replace(uid=owner[0], gid=owner[1])
            if mode is not None and entry.kind in (Kind.FILE, Kind.DIRECTORY):
                entry = entry._replace(mode=mode.apply(entry.mode, is_folder=entry.kind is Kind.DIRECTORY))
            yield entry

    def chunks(self) -> Iterator[memoryview]:
        return self._reader.chunks()
