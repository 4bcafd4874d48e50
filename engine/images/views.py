"""Looking into images: their history, their layers, the files of a layer, and what all of it takes on disk."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.digest import Digest
from engine.errors import InvalidInput
from engine.images.model import DiskUsage, HistoryEntry, Image, ImageUsage, LayerFile, LayerInfo
from engine.layers.diff import Lowers, is_opaque
from engine.linux.files import opened_directory
from engine.linux.walk import Folder, walk
from engine.oci.image_config import History
from engine.snapshots.folders import Snapshotter


def history(image: Image) -> list[HistoryEntry]:
    """Return the instructions that made an image, newest first, each with the layer that it made."""
    entries = []
    for entry, index in _with_layers(image):
        size = image.layers[index].size if index >= 0 else 0
        entries.append(
            HistoryEntry(entry.created, entry.created_by, entry.comment, entry.author, index < 0, size, index)
        )
    return entries[::-1]


def layers(connection: sqlite3.Connection, image: Image) -> list[LayerInfo]:
    """Return the layers of an image, bottom first."""
    instructions = {index: entry.created_by for entry, index in _with_layers(image) if index >= 0}
    found = []
    for index, layer in enumerate(image.layers):
        query = "SELECT DISTINCT image FROM image_layers WHERE chain = ? AND image <> ? ORDER BY image"
        others = tuple(Digest(row["image"]) for row in connection.execute(query, (layer.chain, image.id)))
        here = connection.execute(
            "SELECT 1 FROM snapshots WHERE name = ? AND kind = 'layer'", (layer.chain,)
        ).fetchone()
        found.append(LayerInfo(index, layer, instructions.get(index, ""), here is not None, others))
    return found


def layer_files(snapshots: Snapshotter, image: Image, index: int) -> list[LayerFile]:
    """Return the files of layer `index` sorted by path, and which of them are hidden by a layer above."""
    if not 0 <= index < len(image.layers):
        raise InvalidInput(f"the image has {len(image.layers)} layers, there is no number {index}")
    stack = snapshots.lowers(image.chain)[::-1]
    with Lowers(stack[:index][::-1]) as below, Lowers(stack[index + 1 :]) as above:
        found = list(_files(stack[index], below, above))
    return _counted_once(sorted(found, key=lambda entry: os.fsencode(entry[1].path)))


def usage(images: Sequence[Image], users_of: Callable[[str], list[str]], packed: int) -> DiskUsage:
    """Return what `images` take: `own` bytes are those of layers that no other image has."""
    sizes = {layer.chain: layer.size for image in images for layer in image.layers}
    holders = Counter(chain for image in images for chain in {layer.chain for layer in image.layers})
    found = []
    used: set[Digest] = set()
    for image in images:
        own = sum(layer.size for layer in image.layers if holders[layer.chain] == 1)
        users = tuple(users_of(image.id))
        if users:
            used.update(layer.chain for layer in image.layers)
        blobs = sum(layer.descriptor.size for layer in image.layers)
        found.append(ImageUsage(image.id, image.size, image.size - own, own, blobs, users))
    total = sum(sizes.values())
    return DiskUsage(tuple(found), total, packed, total - sum(sizes[chain] for chain in used))


def _with_layers(image: Image) -> Iterator[tuple[History, int]]:
    """Give each history entry with the index of its layer (-1: none); layers without an entry come first."""
    entries = image.config.history
    makers = [entry for entry in entries if not entry.empty_layer]
    missing = len(image.layers) - len(makers)
    if missing < 0:
        makers = makers[: len(image.layers)]
    index = 0
    for _ in range(max(missing, 0)):
        yield History(created=image.created), index
        index += 1
    for entry in entries:
        if entry.empty_layer or index >= len(image.layers):
            yield entry, -1
        else:
            yield entry, index
            index += 1


def _counted_once(found: list[tuple[int, LayerFile]]) -> list[LayerFile]:
    """Return files with the bytes of hard links at one of their names alone: the first that no layer above hides."""
    names: dict[int, str] = {}
    for inode, file in sorted(found, key=lambda entry: entry[1].hidden):
        if inode:
            names.setdefault(inode, file.path)
    return [
        replace(file, kind="hardlink", size=0, link=names[inode])
        if inode and names[inode] != file.path
        else file
        for inode, file in found
    ]


def _files(layer: Path, below: Lowers, above: Lowers) -> Iterator[tuple[int, LayerFile]]:
    """Give each file with its inode where it has several names, else with 0."""
    with opened_directory(layer) as root:
        for folder in walk(root):
            opaque = bool(folder.path) and is_opaque(folder.fd)
            if opaque:
                yield from ((0, _removed(path)) for path in below.hidden_in(folder))
            for name, info in folder.entries:
                linked = stat.S_ISREG(info.st_mode) and info.st_nlink > 1
                yield info.st_ino if linked else 0, _file(folder, name, info, below, above)
            below.note(folder.path, opaque=opaque)


def _file(folder: Folder, name: str, info: os.stat_result, below: Lowers, above: Lowers) -> LayerFile:
    path = folder.child(name)
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        return _removed(path)
    is_new = below.is_hidden(path) or below.find(path) is None
    return LayerFile(
        path=f"/{path}",
        kind=_kind(info.st_mode),
        size=info.st_size if stat.S_ISREG(info.st_mode) else 0,
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime=info.st_mtime,
        change="added" if is_new else "changed",
        link=os.readlink(name, dir_fd=folder.fd) if stat.S_ISLNK(info.st_mode) else "",
        hidden=above.covers(path, is_directory=stat.S_ISDIR(info.st_mode)),
    )


def _removed(path: str) -> LayerFile:
    return LayerFile(f"/{path}", "other", 0, 0, 0, 0, 0.0, "removed")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symlink"),
        (stat.S_ISFIFO, "fifo"),
    ):
        if test(mode):
            return name
    return "other"
