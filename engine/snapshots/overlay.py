"""Snapshots on overlayfs, the usual way; what snapshots are is told in `engine.snapshots.folders`.

Gotchas
- Folder names are short (a running number in base 36) and mounts of tall stacks name them relative to the layers'
  folder, because all options of mount(2) must fit into one page.
- All layers are idmapped by one mount of their common folder. It is needed only for the length of the mount call:
  overlayfs keeps its own private copy of it.
- `index`, `redirect_dir` and `metacopy` are off: an upper must be readable as a diff by itself, whatever the host's
  defaults are.

Source: kernel documentation, overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.digest import Digest
from engine.errors import Corrupt, Unsupported
from engine.linux.files import remove_tree
from engine.linux.mount import MS_NODEV, MS_RDONLY
from engine.snapshots.folders import Snapshotter, base36, tree_usage
from engine.snapshots.model import SCHEMA, Snapshot, SnapshotInfo, Usage

if TYPE_CHECKING:
    from engine.linux.userns import IdMap

__all__ = ["SCHEMA", "STACK_LIMIT", "OverlaySnapshotter", "Snapshot", "SnapshotInfo", "Usage", "tree_usage"]

OPTIONS = "index=off,redirect_dir=nofollow,metacopy=off"
PAGE_OPTIONS = 4095
STACK_LIMIT = 500  # OVL_MAX_STACK
_CLONE_FS = 0x200
_libc = ctypes.CDLL(None, use_errno=True)


class OverlaySnapshotter(Snapshotter):
    """Shows a stack with one mount of overlayfs, in less than a millisecond."""

    driver = "overlay"

    def mount(
        self,
        key: str,
        target: Path,
        *,
        idmap: IdMap | None = None,
        read_only: bool = False,
        volatile: bool = False,
    ) -> None:
        """Show an active snapshot at `target`. With `idmap` owners appear mapped, and the upper belongs to the mapped root.

        `volatile` lets overlayfs skip every sync: for uppers that are thrown away when anything goes wrong.
        """
        row = self._row(key)
        folder = self._folder(row["seq"])
        if idmap is not None:
            _give_to(folder / "fs", idmap.host_start)
        _make_work(folder / "work")
        stack = self._stack(row["parent"])
        options = f"{OPTIONS},volatile" if volatile else OPTIONS
        name = base36(row["seq"])
        with self._mapped_layers(name, idmap) as layers:
            upper = (f"{self._layers}/{name}/fs", f"{self._layers}/{name}/work")
            self._overlay(stack, layers, target, options, upper=upper, read_only=read_only)
        self._db_set_target(key, str(target))

    def mount_view(self, chain: Digest | None, target: Path, *, idmap: IdMap | None = None) -> None:
        """Show a layer and all below it at `target`, read-only. The caller unmounts it (`unmount_view`)."""
        stack = self._stack(chain)
        with self._mapped_layers("view", idmap) as layers:
            self._overlay(stack, layers, target, OPTIONS, upper=None, read_only=True)

    @contextmanager
    def _mapped_layers(self, name: str, idmap: IdMap | None) -> Iterator[Path]:
        """Give the layers' folder, for the length of the block idmapped where asked for."""
        if idmap is None:
            yield self._layers
            return
        staging = self._staging / f"{name}.{threading.get_native_id()}.{os.getpid()}"
        staging.mkdir(mode=0o700, exist_ok=True)
        try:
            try:
                self._mounts.idmap(str(self._layers), str(staging), idmap.userns_fd)
            except OSError as error:
                raise Unsupported(
                    f"the file system of {self._layers} cannot be idmapped: {error.strerror}",
                    hint="put WHARFINGER_HOME on ext4, xfs or btrfs, or run with the host's user namespace",
                ) from error
            yield staging
        finally:
            self._mounts.unmount(str(staging), detach=True)
            staging.rmdir()

    def _overlay(
        self,
        stack: list[int],
        layers: Path,
        target: Path,
        options: str,
        *,
        upper: tuple[str, str] | None,
        read_only: bool,
    ) -> None:
        if len(stack) > STACK_LIMIT:
            raise Unsupported(
                f"the image has {len(stack)} layers, overlayfs takes {STACK_LIMIT}", hint="merge RUN steps"
            )
        flags = MS_NODEV | (MS_RDONLY if read_only else 0)
        names = [f"{base36(seq)}/fs" for seq in stack]
        if upper is None and len(names) < 2:  # overlayfs wants two folders or an upper
            only = f"{layers}/{names[0]}" if names else str(self._empty)
            self._mounts.bind(only, str(target), read_only=True)
            return
        lowers = [f"{_escaped(str(layers))}/{name}" for name in names] or [_escaped(str(self._empty))]
        data = _data(lowers, upper, options)
        if len(data) <= PAGE_OPTIONS:
            self._try_mount(str(target), flags, data)
            return
        data = _data(names, upper, options)
        if len(data) > PAGE_OPTIONS:
            raise Unsupported(
                f"the image has too many layers to mount ({len(stack)})", hint="merge RUN steps"
            )
        _in_folder(layers, lambda: self._try_mount(str(target), flags, data))

    def _try_mount(self, target: str, flags: int, data: str) -> None:
        try:
            self._mounts.mount("overlay", target, "overlay", flags, data)
        except FileNotFoundError as error:
            raise Corrupt("the folder of a layer is gone", hint="run check and repair") from error


def _data(lowers: list[str], upper: tuple[str, str] | None, options: str) -> str:
    parts = [f"lowerdir={':'.join(lowers)}", options]
    if upper is not None:
        parts += [f"upperdir={_escaped(upper[0])}", f"workdir={_escaped(upper[1])}"]
    return ",".join(parts)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _in_folder(folder: Path, action: Callable[[], None]) -> None:
    """Run `action` with `folder` as the working directory of its own thread alone (unshare(2), CLONE_FS)."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_FS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            os.chdir(folder)
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _give_to(upper: Path, host_root: int) -> None:
    """Let the upper folder belong to the mapped root, unless it has a mapped owner already."""
    info = upper.stat()
    if info.st_uid < host_root:
        os.chown(upper, host_root + info.st_uid, host_root + info.st_gid)


def _make_work(work: Path) -> None:
    """Make the work folder anew: a volatile mount leaves a mark in it that forbids the next mount."""
    if (work / "work").exists():
        remove_tree(work)
    work.mkdir(mode=0o700, exist_ok=True)
