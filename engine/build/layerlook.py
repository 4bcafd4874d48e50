"""A look into the layers that a build made: what in them is waste, for the advice.

What is found depends on a layer and those below it alone, so it is kept by chain id and looked for once. A look is bounded in files: advice
is worth less than the time of somebody who waits.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.db import Database, Schema
from engine.digest import Digest
from engine.layers.diff import OVERLAY_OPAQUE, Lowers
from engine.linux.files import DIRECTORY, opened
from engine.linux.walk import Folder, walk
from engine.snapshots.overlay import OverlaySnapshotter

MAX_FILES = 50_000

SCHEMA = Schema(
    "build_layer_looks",
    ("CREATE TABLE build_layer_looks (chain TEXT PRIMARY KEY, look TEXT NOT NULL) STRICT",),
)

# folders that package managers fill and nobody needs at run time
CACHES = {
    "var/lib/apt/lists": "apt-get",
    "var/cache/apt": "apt-get",
    "var/cache/apk": "apk",
    "var/cache/dnf": "dnf",
    "var/cache/yum": "yum",
    "root/.cache/pip": "pip",
    "root/.cache/uv": "uv",
    "root/.npm": "npm",
    "usr/local/share/.cache": "yarn",
    "root/.cache/go-build": "go",
    "root/go/pkg/mod/cache": "go",
    "root/.cargo/registry": "cargo",
    "usr/local/cargo/registry": "cargo",
    "root/.m2/repository": "maven",
    "root/.gradle/caches": "gradle",
}
TOOLS = frozenset({
    "gcc", "g++", "cc1", "clang", "make", "cmake", "ninja", "meson", "rustc", "cargo", "javac", "mvn", "gradle", "autoconf",
    "bison", "flex",
})  # fmt: skip
_TOOL_FOLDERS = (
    "bin",
    "usr/bin",
    "usr/local/bin",
    "usr/local/go/bin",
    "usr/local/cargo/bin",
    "opt/maven/bin",
)


@dataclass
class Look:
    """What one layer has: bytes of package caches by manager, build tools, and bytes of lower files that it hides."""

    caches: dict[str, int] = field(default_factory=dict)
    tools: list[str] = field(default_factory=list)
    hidden_bytes: int = 0
    hidden_example: str = ""


def look(db: Database, snapshots: OverlaySnapshotter, chain: Digest) -> Look:
    """Return what is to be said about the topmost layer of `chain`."""
    row = db.read().execute("SELECT look FROM build_layer_looks WHERE chain = ?", (chain,)).fetchone()
    if row is not None:
        return Look(**json.loads(row["look"]))
    top, *lowers = snapshots.lowers(chain)
    found = _examine(top, lowers)
    with db.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO build_layer_looks VALUES (?, ?)", (chain, json.dumps(asdict(found)))
        )
    return found


def _examine(top: Path, lowers: list[Path]) -> Look:
    found = Look()
    count = 0
    with opened(os.open(top, DIRECTORY)) as root, Lowers(lowers) as below:
        exists = {"": True}
        for folder in walk(root):
            count += len(folder.entries)
            if count > MAX_FILES:
                break
            parent = folder.path.rpartition("/")[0]
            if folder.path:
                exists[folder.path] = exists.get(parent, False) and below.find(folder.path) is not None
            _count_caches(folder, found)
            _find_tools(folder, found)
            if exists[folder.path] and lowers:
                _count_hidden(folder, below, lowers, found)
    return found


def _count_caches(folder: Folder, found: Look) -> None:
    for place, manager in CACHES.items():
        if folder.path == place or folder.path.startswith(place + "/"):
            size = sum(info.st_size for _, info in folder.entries if stat.S_ISREG(info.st_mode))
            found.caches[manager] = found.caches.get(manager, 0) + size


def _find_tools(folder: Folder, found: Look) -> None:
    if folder.path in _TOOL_FOLDERS:
        names = {name for name, info in folder.entries if not stat.S_ISDIR(info.st_mode)}
        found.tools = sorted({*found.tools, *(names & TOOLS)})


def _count_hidden(folder: Folder, below: Lowers, lowers: list[Path], found: Look) -> None:
    opaque = folder.path and OVERLAY_OPAQUE in os.listxattr(folder.fd)
    if opaque:
        _hide(folder.path, _tree_bytes(lowers, folder.path), found)
        return
    for name, info in folder.entries:
        path = folder.child(name)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            _hide(path, _tree_bytes(lowers, path), found)
        elif stat.S_ISREG(info.st_mode):
            before = below.find(path)
            if before is not None and stat.S_ISREG(before.st_mode):
                _hide(path, before.st_size, found)


def _hide(path: str, size: int, found: Look) -> None:
    if size and not found.hidden_example:
        found.hidden_example = "/" + path
    found.hidden_bytes += size


def _tree_bytes(lowers: list[Path], path: str) -> int:
    """Return the bytes of a file or folder in the topmost layer that has it."""
    for lower in lowers:
        place = lower / path
        try:
            info = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(info.st_mode):
            return info.st_size
        if not stat.S_ISDIR(info.st_mode):
            return 0
        with opened(os.open(lower, DIRECTORY)) as root:
            return sum(
                entry.st_size
                for folder in walk(root, path)
                for _, entry in folder.entries
                if stat.S_ISREG(entry.st_mode)
            )
    return 0
