"""RUN: a command in a sandbox of its own, on the file system that the stage has so far."""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from engine.build import instructions as ins
from engine.build.heredoc import maybe_heredoc
from engine.build.log import StepLog
from engine.build.ops.mounts import MountMaker, MountSources, OciMount
from engine.build.runmounts import RunMount
from engine.build.sandboxes import Sandbox
from engine.containers.model import Resources
from engine.errors import CommandFailed, InvalidInput
from engine.layers.diff import Lowers
from engine.linux.files import DIRECTORY, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, opened
from engine.progress import CancelToken
from engine.runtime import capabilities
from engine.runtime.step import Step, StepRunner

DEFAULT_SHM_BYTES = 64 * 1024 * 1024
_SCRIPT = "/run/heredoc"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,252})\Z")
_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


@dataclass(frozen=True)
class RunSpec:
    """A RUN ready to be executed. `script` is a here-document that is a program of its own (it begins with `#!`)."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    user: str
    network: str
    mounts: Sequence[RunMount] = ()
    script: str = ""
    insecure: bool = False
    extra_hosts: Sequence[str] = ()
    shm_size_bytes: int = 0
    resources: Resources = field(default_factory=Resources)


def command_words(instruction: ins.Run, shell: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the words to execute and the script that a lone here-document with `#!` is."""
    command, files = instruction.command, instruction.node.heredocs
    if not files:
        return ((*shell, *command.words) if command.shell else command.words), ""
    text = command.words[0]
    if maybe_heredoc(text) is None:
        text = "\n".join([text, *(document.content + document.name for document in files)])
        return (*shell, text), ""
    content = files[0].text
    return ((_SCRIPT,), content) if content.startswith("#!") else ((*shell, content), "")


def run(
    spec: RunSpec,
    rootfs: Path,
    *,
    runner: StepRunner,
    sandbox: Sandbox | None,
    sources: MountSources,
    log: StepLog,
    cancel: CancelToken,
    resolv_conf: str,
) -> None:
    """Execute on the mounted root. Raises `CommandFailed` with the command's status, `Cancelled`."""
    idmap = sandbox.idmap if sandbox else None
    with ExitStack() as stack:
        made = MountMaker(sources, idmap, spec.workdir, cancel, stack).make(list(spec.mounts))
        mounts = [*made.mounts, *_script_mount(spec, sources, idmap.host_start if idmap else 0)]
        files = {"/etc/hosts": _hosts(spec.extra_hosts)}
        if spec.network != "none":
            files["/etc/resolv.conf"] = resolv_conf
        step = Step(
            spec.words,
            env={**spec.environment, **made.environment},
            cwd=spec.workdir,
            user=spec.user,
            network=spec.network,
            netns=sandbox.netns if sandbox else None,
            mounts=mounts,
            files=files,
            hostname="build",
            capabilities=capabilities.available() if spec.insecure else capabilities.DEFAULT,
            resources=spec.resources,
            shm_size_bytes=spec.shm_size_bytes or DEFAULT_SHM_BYTES,
        )
        try:
            status = runner.run(rootfs, step, idmap, log.write, cancel)
        finally:
            log.close()
    if status:
        raise failed(spec.words, status)


def failed(words: Sequence[str], status: int) -> CommandFailed:
    """Return the error of a command that ended with `status`."""
    code = 128 - status if status < 0 else status
    hint = {
        127: "the program is not in the image, or not in its PATH",
        126: "the file is there but cannot be executed",
        137: "it was killed: perhaps it needs more memory than the step may use",
    }.get(code, "")
    text = f"The command '{' '.join(words)}' returned a non-zero code: {code}"
    return CommandFailed(text, argv=words, status=code, hint=hint)


def prune_untouched(upper: Path, lowers: Sequence[Path], targets: Sequence[str], host_start: int) -> None:
    """Take out of an upper the empty folders that are there only because a mount point was made and removed in them."""
    places = {str(parent)[1:] for target in targets for parent in PurePosixPath(target).parents} - {""}
    with opened(os.open(upper, DIRECTORY)) as root, Lowers(lowers) as below:
        for place in sorted(places, key=len, reverse=True):
            with suppress(OSError):
                if _is_as_below(root, place, below, host_start):
                    parent, name = posixpath.split(place)
                    with opened(openat2(root, parent or ".", DIRECTORY, resolve=_INSIDE)) as folder:
                        os.rmdir(name, dir_fd=folder)  # refused by the kernel unless it is empty


def _is_as_below(root: int, place: str, below: Lowers, host_start: int) -> bool:
    with opened(openat2(root, place, DIRECTORY | os.O_NOFOLLOW, resolve=_INSIDE)) as folder:
        now, attributes = os.fstat(folder), os.listxattr(folder)
    before = below.find(place)
    return (
        before is not None
        and not any(not name.startswith("security.selinux") for name in attributes)
        and now.st_mode == before.st_mode
        and (now.st_uid - host_start, now.st_gid - host_start) == (before.st_uid, before.st_gid)
    )


def _script_mount(spec: RunSpec, sources: MountSources, owner: int) -> list[OciMount]:
    """Write a here-document that is a program, and show it in the step."""
    if not spec.script:
        return []
    file = sources.workspace.folder("script") / "script"
    file.write_bytes(spec.script.encode("utf-8", "surrogateescape"))
    file.chmod(0o755)
    os.chown(file, owner, owner)
    options = ["bind", "rprivate", "ro"]
    return [{"destination": _SCRIPT, "type": "bind", "source": str(file), "options": options}]


def _hosts(extra: Sequence[str]) -> str:
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for entry in extra:
        name, separator, address = entry.partition(":")
        if not separator:
            name, separator, address = entry.partition("=")
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise InvalidInput(
                f"not a host and its address: {entry[:100]!r}", hint="write it as name:address"
            ) from None
        if not _HOST.match(name):
            raise InvalidInput(f"not a host name: {name[:100]!r}")
        lines.append(f"{address.strip('[]')}\t{name}")
    return "\n".join(lines) + "\n"
