"""`RUN --mount` made real: each becomes a mount of the step's sandbox, and nothing of it stays in the layer.

Folders of the context, of stages and of images are shown through idmapped mounts, so their files have inside the owners that they have
in images. What a step writes into an `rw` bind goes to an overlay that is thrown away. Secrets lie in files on a tmpfs only
while the step runs. Source paths are resolved inside their tree, so none leads out of it (BU-04).
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.build.cachemounts import CacheMounts, inner_folder
from engine.build.ops.place import Ownership, Placement
from engine.build.ops.sshproxy import AgentProxy
from engine.build.runmounts import MountType, RunMount, Sharing
from engine.build.trees import Tree
from engine.build.workspace import Workspace
from engine.errors import InvalidInput, NotFound
from engine.linux.files import DIRECTORY, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, opened
from engine.linux.mount import LinuxMounts
from engine.linux.userns import IdMap
from engine.progress import CancelToken
from engine.runtime.paths import check_mount_target
from engine.snapshots.overlay import OverlaySnapshotter

OciMount = dict[str, Any]


@dataclass(frozen=True)
class MountSources:
    """Where the mounts of a step get their content. `tree_of` opens what `from=` names (empty: the context)."""

    workspace: Workspace
    caches: CacheMounts
    secrets: Mapping[str, bytes]
    ssh: Mapping[str, Path]
    tree_of: Callable[[str], Tree]
    snapshots: OverlaySnapshotter


@dataclass
class StepMounts:
    """The mounts of one step, the variables that come with them, and the undoing of both."""

    mounts: list[OciMount] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


class MountMaker:
    """Makes the mounts of one step; `stack` undoes them."""

    def __init__(
        self, sources: MountSources, idmap: IdMap | None, workdir: str, cancel: CancelToken, stack: ExitStack
    ) -> None:
        self._sources = sources
        self._idmap = idmap
        self._workdir = workdir
        self._cancel = cancel
        self._stack = stack
        self._mounts = LinuxMounts()
        self._made = StepMounts()
        self._sockets = 0

    def make(self, mounts: list[RunMount]) -> StepMounts:
        """Make all mounts, in their order. Raises `InvalidInput` or `NotFound` naming what is wrong."""
        makers = {
            MountType.BIND: self._bind,
            MountType.CACHE: self._cache,
            MountType.TMPFS: self._tmpfs,
            MountType.SECRET: self._secret,
            MountType.SSH: self._ssh,
        }
        for mount in mounts:
            makers[mount.type](mount)
        return self._made

    def _target(self, target: str) -> str:
        return check_mount_target(posixpath.join("/", self._workdir, target))

    def _add(self, target: str, source: Path, *, read_only: bool) -> None:
        options = ["rbind", "rprivate", "nosuid", "nodev", "ro" if read_only else "rw"]
        self._made.mounts.append(
            {"destination": target, "type": "bind", "source": str(source), "options": options}
        )

    def _bind(self, mount: RunMount) -> None:
        target = self._target(mount.target)
        tree = self._sources.tree_of(mount.origin)
        real = tree.resolve(posixpath.normpath("/" + mount.source).lstrip("/"))
        if real is None:
            raise InvalidInput(f'"{mount.source}": not found in {tree.title}')
        root = self._shown_tree(tree)
        if not mount.is_read_only:
            root = self._writable(root)
        self._add(target, root / real if real else root, read_only=mount.is_read_only)

    def _shown_tree(self, tree: Tree) -> Path:
        if tree.chain is None:
            return self._shown(tree.root, read_only=True)
        place = self._sources.workspace.folder("bind")  # a mounted overlay cannot be idmapped, its layers can
        self._sources.snapshots.mount_view(tree.chain, place, idmap=self._idmap)
        self._stack.callback(self._mounts.unmount, str(place), detach=True)
        return place

    def _shown(self, folder: Path, *, read_only: bool) -> Path:
        """Show a folder with the step's owners."""
        place = self._sources.workspace.folder("bind")
        if self._idmap is None:
            self._mounts.bind(str(folder), str(place), read_only=read_only)
        else:
            self._mounts.idmap(str(folder), str(place), self._idmap.userns_fd, read_only=read_only)
        self._stack.callback(self._mounts.unmount, str(place), detach=True)
        return place

    def _writable(self, lower: Path) -> Path:
        """Put an overlay over a folder, whose upper is thrown away after the step."""
        scratch = self._sources.workspace.folder("scratch", on_disk=True)
        upper, work, place = scratch / "fs", scratch / "work", self._sources.workspace.folder("bind")
        info = lower.stat()
        for folder in (upper, work):
            folder.mkdir(mode=0o755)
            os.chown(folder, info.st_uid, info.st_gid)
        upper.chmod(info.st_mode & 0o7777)
        options = f"lowerdir={lower},upperdir={upper},workdir={work},volatile,index=off,metacopy=off"
        self._mounts.mount("overlay", str(place), "overlay", 0, options)
        self._stack.callback(self._mounts.unmount, str(place), detach=True)
        return place

    def _cache(self, mount: RunMount) -> None:
        target = self._target(mount.target)
        mode = 0o755 if mount.mode is None else mount.mode
        owner = (mount.uid or 0, mount.gid or 0)
        held = self._sources.caches.hold(
            mount.id or posixpath.normpath(target),
            mount.sharing or Sharing.SHARED,
            mode=mode,
            owner=owner,
            cancel=self._cancel,
        )
        folder, is_new = self._stack.enter_context(held)
        inner = ""
        if mount.origin:
            if is_new:
                self._fill(folder, mount)
        elif mount.source:
            inner = inner_folder(folder, mount.source)
        root = self._shown(folder, read_only=False)
        self._add(target, self._pinned(root, inner) if inner else root, read_only=mount.is_read_only)

    def _pinned(self, root: Path, inner: str) -> Path:
        """Show a folder of a cache by its descriptor: another step that shares the cache may put a link in its place."""
        place = self._sources.workspace.folder("bind")
        try:
            with (
                opened(os.open(root, DIRECTORY)) as whole,
                opened(
                    openat2(whole, inner, DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
                ) as folder,
            ):
                self._mounts.bind(f"/proc/self/fd/{folder}", str(place))
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EXDEV):
                raise
            raise InvalidInput(
                f"the source {inner[:100]!r} of a cache mount changed",
                hint="another build uses the same cache: try again",
            ) from error
        self._stack.callback(self._mounts.unmount, str(place), detach=True)
        return place

    def _fill(self, folder: Path, mount: RunMount) -> None:
        """Begin a new cache with the files that `from=` and `source=` name."""
        tree = self._sources.tree_of(mount.origin)
        real = tree.resolve(posixpath.normpath("/" + mount.source).lstrip("/"))
        if real is None:
            raise InvalidInput(f'"{mount.source}": not found in {tree.title}')
        with opened(os.open(folder, DIRECTORY)) as root:
            placement = Placement(root, Ownership(), self._cancel.check)
            for fact in tree.facts(real, "", with_root=False, check=self._cancel.check):
                placement.add(tree, fact, "/" + fact.path)
        placement.write(folder)

    def _tmpfs(self, mount: RunMount) -> None:
        options = ["nosuid", "nodev", "mode=1777"]
        if mount.size_bytes:
            options.append(f"size={mount.size_bytes}")
        self._made.mounts.append(
            {
                "destination": self._target(mount.target),
                "type": "tmpfs",
                "source": "tmpfs",
                "options": options,
            }
        )

    def _secret(self, mount: RunMount) -> None:
        name = mount.source or mount.id or posixpath.basename(mount.target)
        value = self._sources.secrets.get(name)
        if value is None:
            if mount.required:
                raise NotFound(f"secret {name}: not found", hint="give the build a secret of that id")
            return
        if mount.env is not None:
            variable = mount.env or name
            self._made.environment[variable] = value.decode("utf-8", "surrogateescape")
            if not mount.target:
                return
        target = self._target(mount.target or f"/run/secrets/{posixpath.basename(name)}")
        file = self._sources.workspace.folder("secret") / "value"
        self._stack.callback(file.unlink)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "wb") as opened_file:
            opened_file.write(value)
            os.fchown(opened_file.fileno(), *self._host_owner(mount))
            os.fchmod(opened_file.fileno(), 0o400 if mount.mode is None else mount.mode)
        self._add(target, file, read_only=True)

    def _ssh(self, mount: RunMount) -> None:
        name = mount.id or "default"
        agent = self._sources.ssh.get(name)
        if agent is None:
            if mount.required:
                raise NotFound(
                    f"ssh agent {name}: not found", hint="give the build an agent's socket of that id"
                )
            return
        target = self._target(mount.target or f"/run/buildkit/ssh_agent.{self._sockets}")
        self._sockets += 1
        path = self._sources.workspace.folder("ssh") / "agent"
        proxy = AgentProxy(
            path, agent, owner=self._host_owner(mount), mode=0o600 if mount.mode is None else mount.mode
        )
        self._stack.enter_context(proxy)
        self._made.environment.setdefault("SSH_AUTH_SOCK", target)
        self._add(target, path, read_only=False)

    def _host_owner(self, mount: RunMount) -> tuple[int, int]:
        start = self._idmap.host_start if self._idmap else 0
        return start + (mount.uid or 0), start + (mount.gid or 0)
