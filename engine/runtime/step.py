"""Build steps: a program run to its end in a sandbox like a container's, without a monitor.

The program gets its own user, process, IPC, host name and mount namespaces, the default seccomp profile and the default
capabilities. While the caller holds the lock file of the step's folder the step is alive; `sweep` kills and removes those whose
caller died, so a step ends with the process that asked for it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import selectors
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import EngineConfig
from engine.containers.model import Resources
from engine.errors import BadSpec, CommandFailed, InvalidInput
from engine.linux.cgroup import Cgroups
from engine.linux.files import DIRECTORY, opened, remove_tree
from engine.linux.locks import file_lock, is_locked
from engine.linux.mount import LinuxMounts
from engine.linux.process import CLEAN_ENV
from engine.linux.userns import IdMap
from engine.progress import CancelToken
from engine.runtime import capabilities as caps
from engine.runtime import stubs
from engine.runtime.conmon import readable
from engine.runtime.oci_runtime import OciRuntime
from engine.runtime.paths import check_root, checked_cwd
from engine.runtime.roots import Roots
from engine.runtime.seccomp import default_seccomp
from engine.runtime.spec import ProcessSpec, SandboxSpec, build_config
from engine.runtime.stdio import Owner, owner_of
from engine.runtime.users import resolve_user

Output = Callable[[str, bytes], None]

_CHUNK = 64 * 1024
_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_NOT_FOUND = re.compile(r"executable file not found|no such file or directory", re.I)
_NOT_ALLOWED = re.compile(r"permission denied|is a directory|exec format error", re.I)


@dataclass(frozen=True)
class Step:
    """What to run. `network`: `none` (a new namespace with only a loopback), `host`, or `default` with the path `netns` of a
    namespace that is owned by the user namespace of `idmap`. `files` are texts bound over paths inside."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""
    network: str = "none"
    netns: Path | None = None
    mounts: Sequence[dict[str, Any]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    hostname: str = "buildkitsandbox"
    capabilities: frozenset[str] = caps.DEFAULT
    resources: Resources = field(default_factory=Resources)
    shm_size_bytes: int = 64 * 1024 * 1024


class StepRunner:
    """Runs build steps on this node."""

    def __init__(self, config: EngineConfig, runtime: OciRuntime, cgroups: Cgroups) -> None:
        self._runtime = runtime
        self._cgroups = cgroups
        self._folder = config.run_root / "steps"
        self._roots = Roots(config)
        self._group = f"wharfinger-{config.instance}"
        self._pids_limit = config.default_pids_limit

    def run_step(
        self,
        rootfs: Path,
        *,
        argv: Sequence[str],
        idmap: IdMap | None,
        on_output: Output,
        cancel: CancelToken | None = None,
        **options: Any,  # the other fields of `Step`
    ) -> int:
        """Run `argv` on the mounted root and return its exit status (127: not found, 126: cannot be executed).

        `on_output(stream, data)` gets what it writes, in order within a stream. Raises `Cancelled` on request and
        `CommandFailed` when the sandbox could not be made. No process of the step is left when it returns.
        """
        return self.run(rootfs, Step(argv, **options), idmap, on_output, cancel or CancelToken())

    def run(
        self, rootfs: Path, step: Step, idmap: IdMap | None, on_output: Output, cancel: CancelToken
    ) -> int:
        """As `run_step`, with the step as one value."""
        if not step.argv:
            raise InvalidInput("a build step needs a command")
        cancel.check()
        name = f"step-{secrets.token_hex(8)}"
        bundle = self._folder / name
        with ExitStack() as undo:
            bundle.mkdir(parents=True, mode=0o700)
            undo.callback(remove_tree, bundle)
            undo.enter_context(file_lock(bundle / "lock"))
            rootfs = undo.enter_context(self._reachable(rootfs, name, idmap))
            root_fd = undo.enter_context(opened(os.open(rootfs, DIRECTORY)))
            config = self._config(rootfs, root_fd, step, idmap, name, bundle)
            targets = [mount["destination"] for mount in config["mounts"]]
            missing = stubs.absent(root_fd, targets)
            undo.callback(stubs.remove, root_fd, missing)
            with open(
                os.open(bundle / "config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
            ) as file:
                file.write(json.dumps(self._runtime.prepare(config)))
            undo.callback(self._clear, name)
            learn = partial(self._runtime.learn, config, name)
            return self._supervise(name, bundle, owner_of(config["process"], idmap), on_output, cancel, learn)

    def sweep(self) -> list[str]:
        """End the steps whose caller is gone and remove what is left of them; return their names."""
        swept = []
        for bundle in sorted(self._folder.glob("step-*")):
            if (bundle / "lock").exists() and is_locked(bundle / "lock"):
                continue
            self._clear(bundle.name)
            self._roots.remove(bundle.name)
            remove_tree(bundle)
            swept.append(bundle.name)
        return swept

    @contextmanager
    def _reachable(self, rootfs: Path, name: str, idmap: IdMap | None) -> Iterator[Path]:
        """Show the root in a folder of the mapped root: the runtime, once inside, may not pass through ours."""
        with self._roots.hold(name, idmap.host_start if idmap else 0) as place:
            LinuxMounts().bind(str(rootfs), str(place), recursive=True)
            try:
                yield place
            finally:
                LinuxMounts().unmount(str(place), detach=True)

    def _config(
        self, rootfs: Path, root_fd: int, step: Step, idmap: IdMap | None, name: str, bundle: Path
    ) -> dict[str, Any]:
        check_root(root_fd)
        cwd = checked_cwd(root_fd, step.cwd)
        ids = resolve_user(root_fd, step.user, max_id=idmap.size - 1 if idmap else 2**31 - 1)
        env = dict(step.env)
        env.setdefault("PATH", CLEAN_ENV["PATH"])
        if "HOME" not in env:
            env["HOME"] = ids.home or "/"
        for key, value in env.items():
            if not key or "=" in key or "\0" in key + value:
                raise BadSpec(f"not an environment variable: {key[:64]!r}")
        process = ProcessSpec(
            step.argv, [f"{key}={value}" for key, value in env.items()], cwd, ids.uid, ids.gid, ids.groups,
            capabilities=step.capabilities,
        )  # fmt: skip
        namespaces = {"pid": "", "ipc": "", "uts": "", "mount": ""}
        if idmap is not None:
            namespaces["user"] = idmap.path
        if step.network == "default" and step.netns is None:
            raise InvalidInput("the default network of a build step needs a network namespace")
        if step.network != "host":
            namespaces["network"] = str(step.netns) if step.network == "default" else ""
        resources = step.resources
        if not resources.pids_limit:
            resources = Resources(**{**resources.__dict__, "pids_limit": self._pids_limit})
        sandbox = SandboxSpec(
            rootfs, f"{self._group}/{name}", namespaces, idmap.host_start if idmap else None,
            hostname=step.hostname, mounts=[*_file_mounts(step, bundle, idmap), *step.mounts], resources=resources,
            shm_size_bytes=step.shm_size_bytes, seccomp=default_seccomp(step.capabilities), runtime=self._runtime.name,
        )  # fmt: skip
        return build_config(process, sandbox)

    def _supervise(
        self,
        name: str,
        bundle: Path,
        owner: Owner,
        on_output: Output,
        cancel: CancelToken,
        on_life: Callable[[], None],
    ) -> int:
        log = bundle / "runtime.log"
        argv = self._runtime.argv(
            "--log", str(log), "--log-format", "json", "run", "--bundle", str(bundle), name
        )
        with ExitStack() as ours:
            with ExitStack() as theirs:
                out, out_write = _pipe(owner, ours, theirs)
                err, err_write = _pipe(owner, ours, theirs)
                program = self._runtime.spawn(
                    argv, stdin=subprocess.DEVNULL, stdout=out_write, stderr=err_write, env=CLEAN_ENV,
                    start_new_session=True,
                )  # fmt: skip
            try:
                self._pump(program, {out: "stdout", err: "stderr"}, on_output, cancel, on_life)
                status = program.wait()
            finally:
                if program.poll() is None:
                    self._cgroups.kill(f"{self._group}/{name}")
                    program.kill()
                    program.wait()
        return _outcome(status, log, argv)

    def _pump(
        self,
        program: subprocess.Popen[bytes],
        pipes: Mapping[int, str],
        on_output: Output,
        cancel: CancelToken,
        on_life: Callable[[], None],
    ) -> None:
        """Hand on the output until both streams end, or the runtime has ended and nothing more is waiting.

        `on_life` is called once, at the first sign that the program runs.
        """
        alive = False
        with selectors.DefaultSelector() as selector:
            for pipe, stream in pipes.items():
                selector.register(pipe, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(0.2)
                if ready and not alive:
                    alive = True
                    on_life()
                for key, _ in ready:
                    if data := os.read(key.fd, _CHUNK):
                        on_output(key.data, data)
                    else:
                        selector.unregister(key.fileobj)
                cancel.check()
                if not ready and program.poll() is not None:
                    return

    def _clear(self, name: str) -> None:
        group = f"{self._group}/{name}"
        self._cgroups.kill(group)
        self._cgroups.remove(group)
        self._runtime.forget(name)


def _pipe(owner: Owner, ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    """Make a pipe that belongs to the program, its ends closed with the two stacks."""
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    os.fchown(write, *owner)
    return read, write


def _file_mounts(step: Step, bundle: Path, idmap: IdMap | None) -> list[dict[str, Any]]:
    """Write the texts that are bound over files inside, owned by root of the container."""
    owner = idmap.host_start if idmap else 0
    mounts = []
    for index, (target, text) in enumerate({"/etc/hosts": _HOSTS, **step.files}.items()):
        source = bundle / f"file-{index}"
        source.write_text(text)
        source.chmod(0o644)
        os.chown(source, owner, owner)
        mounts.append(
            {
                "destination": target,
                "type": "bind",
                "source": str(source),
                "options": ["rbind", "rprivate", "rw"],
            }
        )
    return mounts


def _outcome(status: int, log: Path, argv: list[str]) -> int:
    """Tell the program's own exit status from a failure of the runtime, which it writes to its log."""
    message = readable(runtime_error(log))
    if not message:
        return status
    if _NOT_FOUND.search(message):
        return 127
    if _NOT_ALLOWED.search(message):
        return 126
    raise CommandFailed(
        f"the sandbox of a build step could not be made: {message}", argv=argv, status=status, stderr=message
    )


def runtime_error(log: Path) -> str:
    """Return the last error that a runtime wrote to its JSON log, empty when there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            return str(entry.get("msg", ""))[:2000]
    return ""
