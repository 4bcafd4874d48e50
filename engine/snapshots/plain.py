"""Snapshots by plain copies, for hosts whose kernel or file system has no overlayfs: slow, large, and the same otherwise.

Layers are kept exactly as `OverlaySnapshotter` keeps them, so a node can change from one to the other. `mount` copies the
whole stack into one tree and binds it; `unmount` finds what was changed in it since (the kernel's ctime tells, which no
program can set back) and writes that into the upper folder in overlayfs' form, as overlayfs would have done at once.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from engine.digest import Digest
from engine.linux import xattrs
from engine.linux.files import DIRECTORY, opened_directory, remove_tree, space_translated
from engine.linux.idshift import NO_SHIFT, to_host
from engine.linux.overlay_copy import OPAQUE, is_opaque, is_whiteout, lay_over
from engine.linux.walk import walk
from engine.snapshots.folders import COPY, Snapshotter

if TYPE_CHECKING:
    from engine.linux.userns import IdMap

_CLOCK_TICK_S = 0.02  # longer than a tick of the clock that ctime is taken from


class PlainSnapshotter(Snapshotter):
    """Shows a stack as a copy of all its layers."""

    driver = "plain"

    def mount(
        self,
        key: str,
        target: Path,
        *,
        idmap: IdMap | None = None,
        read_only: bool = False,
        volatile: bool = False,
    ) -> None:
        row = self._row(key)
        folder = self._folder(row["seq"])
        merged = folder / "merged"
        if not (folder / "names").exists():
            with space_translated("a snapshot"):
                self._merge(self.lowers(row["parent"]), merged, idmap)
                lay_over(folder / "fs", merged, NO_SHIFT)
                if idmap is not None:
                    os.chown(merged, idmap.host_start, idmap.host_start)
                _remember(merged, folder)
        self._mounts.bind(str(merged), str(target), read_only=read_only)
        self._db_set_target(key, str(target))

    def unmount(self, key: str) -> None:
        row = self._row(key)
        super().unmount(key)
        folder = self._folder(row["seq"])
        if (folder / "names").exists():
            _write_upper(folder)

    def mount_view(self, chain: Digest | None, target: Path, *, idmap: IdMap | None = None) -> None:
        merged = self._staging / f"{COPY}{target.name}.{os.getpid()}"
        self._merge(self.lowers(chain), merged, idmap)
        self._mounts.bind(str(merged), str(target), read_only=True)

    def unmount_view(self, target: Path) -> None:
        super().unmount_view(target)
        remove_tree(self._staging / f"{COPY}{target.name}.{os.getpid()}")

    def _merge(self, lowers: list[Path], merged: Path, idmap: IdMap | None) -> None:
        shift = NO_SHIFT if idmap is None else to_host(idmap.host_start)
        remove_tree(merged)
        merged.mkdir(mode=0o755)
        for layer in reversed(lowers):
            lay_over(layer, merged, shift)

    def _finish(self, seq: int, *, sync: bool) -> None:
        for name in ("merged", "names"):
            remove_tree(self._folder(seq) / name)
        super()._finish(seq, sync=sync)


def _remember(merged: Path, folder: Path) -> None:
    """Write down which names there are before anybody changes them; the file's own time parts before from after."""
    with opened_directory(merged) as fd:
        names = [part.child(name) for part in walk(fd) for name, _ in part.entries]
    time.sleep(_CLOCK_TICK_S)
    (folder / "names").write_bytes(b"\0".join(os.fsencode(name) for name in names))
    time.sleep(_CLOCK_TICK_S)


def _write_upper(folder: Path) -> None:
    """Make the upper folder of a copied tree anew: what changed since `_remember`, and marks for what went."""
    since = (folder / "names").stat().st_ctime_ns
    before = {os.fsdecode(name) for name in (folder / "names").read_bytes().split(b"\0") if name}
    old, new = folder / "fs", folder / "fs.new"
    remove_tree(new)
    new.mkdir(mode=0o700)
    with ExitStack() as stack:
        merged, upper, earlier = (
            stack.enter_context(opened_directory(path)) for path in (folder / "merged", new, old)
        )
        _copy_folder(merged, upper, "")
        present: dict[str, bool] = {"": True}
        for part in walk(merged):
            for name, info in part.entries:
                path = part.child(name)
                present[path] = stat.S_ISDIR(info.st_mode)
                if info.st_ctime_ns >= since or _is_there(earlier, path):
                    _take(merged, upper, path, is_directory=present[path])
        for path in sorted(before - present.keys()):
            if present.get(path.rpartition("/")[0]):
                _mark_removed(merged, upper, path)
        _keep_marks(earlier, merged, upper, known=present.keys() | before)
    remove_tree(old)
    new.rename(old)


def _take(merged: int, upper: int, path: str, *, is_directory: bool) -> None:
    _make_parents(merged, upper, path)
    if is_directory:
        _copy_folder(merged, upper, path)
    else:
        os.link(path, path, src_dir_fd=merged, dst_dir_fd=upper, follow_symlinks=False)


def _mark_removed(merged: int, upper: int, path: str) -> None:
    _make_parents(merged, upper, path)
    os.mknod(path, stat.S_IFCHR, 0, dir_fd=upper)


def _make_parents(merged: int, upper: int, path: str) -> None:
    parts = path.split("/")[:-1]
    for index in range(1, len(parts) + 1):
        if not _is_there(upper, "/".join(parts[:index])):
            _copy_folder(merged, upper, "/".join(parts[:index]))


def _copy_folder(merged: int, upper: int, path: str) -> None:
    """Make a directory like the one in the merged tree, without its content."""
    if path and not _is_there(upper, path):
        os.mkdir(path, 0o700, dir_fd=upper)
    source = os.open(path or ".", DIRECTORY | os.O_NOFOLLOW, dir_fd=merged)
    copy = os.open(path or ".", DIRECTORY | os.O_NOFOLLOW, dir_fd=upper)
    try:
        info = os.fstat(source)
        os.fchown(copy, info.st_uid, info.st_gid)
        os.fchmod(copy, stat.S_IMODE(info.st_mode))
        for name, value in xattrs.read(source, NO_SHIFT).items():
            os.setxattr(copy, name, value)
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(source)
        os.close(copy)


def _keep_marks(earlier: int, merged: int, upper: int, *, known: set[str]) -> None:
    """Take over the marks that the upper had before the tree was copied: removed names and opaque directories."""
    for part in walk(earlier):
        if part.path and is_opaque(part.fd) and _is_there(upper, part.path):
            os.setxattr(f"/proc/self/fd/{upper}/{part.path}", OPAQUE, b"y", follow_symlinks=False)
        for name, info in part.entries:
            if is_whiteout(info) and part.child(name) not in known:
                _mark_removed(merged, upper, part.child(name))


def _is_there(fd: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
