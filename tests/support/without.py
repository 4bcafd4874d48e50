"""A pytest plugin that takes one guard away (`WHARFINGER_WITHOUT=name`), to prove that its test would notice (H14).

`tests.support.cage` runs such a test below limits; by hand and without one, a fork bomb is a fork bomb.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.containers import FOLDERS

GUARDS: dict[str, Callable[[], None]] = {}
_libc = ctypes.CDLL(None)


def pytest_collection_finish() -> None:
    """Take the guard away once every module that may hold a reference to it has been imported."""
    if name := os.environ.get("WHARFINGER_WITHOUT"):
        GUARDS[name]()


def guard(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Name a function that takes a guard away."""

    def named(remove: Callable[[], None]) -> Callable[[], None]:
        GUARDS[name] = remove
        return remove

    return named


def replace(place: str, value: Any) -> None:
    """Set what is at `module:path`; a module's own name also in every module that has imported it."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *above, last = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    before = getattr(owner, last)
    setattr(owner, last, value)
    if not above:
        for other in list(sys.modules.values()):
            if getattr(other, last, None) is before:
                setattr(other, last, value)


def original(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@guard("no kernel folder as working directory")
def _() -> None:
    replace("engine.runtime.paths:checked_cwd", lambda root_fd, cwd, must_exist=False: cwd or "/")


@guard("runtime out of sight")
def _() -> None:
    """Let a program of the host that a container may write run among its processes, as a runtime once did."""
    run, here = original("engine.containers.exec:Execs.run"), "tests.engine.system.test_containers_security"
    folder = FOLDERS / f"wf-test-{os.environ['WHARFINGER_TEST_INSTANCE']}-shown"
    folder.mkdir()
    program = str(folder / "busybox")
    shutil.copy("/bin/busybox", program)
    Path(program).chmod(0o777)

    def run_in_sight(self: Any, ref: str, *rest: Any, **options: Any) -> Any:
        _run_among(self._parts.store.get(ref).pid, [program, "sleep", "0.1"])
        return run(self, ref, *rest, **options)

    replace(f"{here}:programs_of", lambda node: [program])
    replace("engine.containers.exec:Execs.run", run_in_sight)


def _run_among(pid: int, argv: list[str]) -> None:
    """Run a program of the host, without any capability, in the user and process namespaces of `pid`."""
    namespaces = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "pid")]
    helper = os.fork()
    if helper == 0:
        try:
            _enter(namespaces)
            if os.fork() == 0:  # only children are in the new process namespace
                _drop_capabilities()
                os.execv(argv[0], argv)
            os.wait()
        finally:  # also where the program has been overwritten meanwhile
            os._exit(0)
    for namespace in namespaces:
        os.close(namespace)
    os.waitpid(helper, 0)


def _enter(namespaces: list[int]) -> None:
    for namespace in namespaces:
        _libc.setns(namespace, 0)
    os.setgid(0)  # root of the container, whose own processes may then look at it
    os.setuid(0)


def _drop_capabilities() -> None:
    for number in range(41):
        _libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: nothing is gained by the exec


@guard("no mount on kernel folders")
def _() -> None:
    replace("engine.runtime.paths:_refuse_kernel", lambda path, what: None)


@guard("masked paths")
def _() -> None:
    replace("engine.runtime.spec:MASKED_PATHS", ())
    replace("engine.runtime.spec:READ_ONLY_PATHS", ())


@guard("seccomp")
def _() -> None:
    replace("engine.runtime.seccomp:default_seccomp", lambda capabilities, architecture="": None)


@guard("few capabilities")
def _() -> None:
    from engine.runtime import capabilities

    every = frozenset(capabilities.available())
    replace("engine.runtime.capabilities:resolve", lambda add=(), drop=(), privileged=False: every)


@guard("highest user number")
def _() -> None:
    replace("engine.runtime.users:_number", lambda text, what, max_id: int(text) & 0xFFFF)


@guard("digits are numbers")
def _() -> None:
    def by_name_first(accounts: list[Any], who: str, max_id: int) -> Any:
        return next(account for account in accounts if account.name == who)

    replace("engine.runtime.users:_account", by_name_first)


@guard("rights in the service")
def _() -> None:
    replace("webapp.containers.policy:rights_for_spec", lambda spec: {})


@guard("rights on the node")
def _() -> None:
    replace("workers.contracts.policy:missing", lambda needed, granted: {})


@guard("allowed bind roots")
def _() -> None:
    replace(
        "engine.volumes.binds:BindPolicy._judge",
        lambda self, source: ("/", source.lstrip("/") if source != "/" else ""),
    )


@guard("bind sources without links")
def _() -> None:
    replace("engine.volumes.binds:STRICT", 0)


@guard("own ids")
def _() -> None:
    replace("engine.containers.sandbox:uses_host_ids", lambda spec: True)


@guard("closed sockets")
def _() -> None:
    make = original("engine.runtime.bundle:Bundle.make")

    def open_to_all(self: Any, config: dict[str, Any]) -> None:
        make(self, config)
        self.folder.chmod(0o755)

    replace("engine.runtime.bundle:Bundle.make", open_to_all)


@guard("firewall before the machine")
def _() -> None:
    chains = original("engine.network.firewall:_CHAINS")
    replace("engine.network.firewall:_CHAINS", chains.replace("iifname @bridges jump to_host", ""))


@guard("firewall before the cloud")
def _() -> None:
    chains = original("engine.network.firewall:_CHAINS")
    found = "ip daddr 169.254.0.0/16 reject with icmp type admin-prohibited"
    assert found in chains
    replace("engine.network.firewall:_CHAINS", chains.replace(found, ""))


@guard("labels are no annotations")
def _() -> None:
    assemble = original("engine.containers.sandbox:Assembler.assemble")

    def with_labels(self: Any, container: Any, *rest: Any) -> Any:
        made = assemble(self, container, *rest)
        made.config["annotations"] = dict(container.config["Labels"] or {})
        return made

    replace("engine.containers.sandbox:Assembler.assemble", with_labels)


@guard("closed folders")
def _() -> None:
    make = original("engine.config:EngineConfig.make_folders")

    def open_to_all(self: Any) -> None:
        make(self)
        for folder in (self.data_root, self.run_root, self.data_root.parent):
            folder.chmod(0o755)

    replace("engine.config:EngineConfig.make_folders", open_to_all)


def _follow(root_fd: int, path: str | bytes, flags: int, *, mode: int = 0) -> int:
    """Open a path as if nobody were hostile: links lead where they say, on the host."""
    return os.open(f"/proc/self/fd/{root_fd}/{os.fsdecode(path).lstrip('/')}", flags | os.O_CLOEXEC, mode)


@guard("paths are resolved inside")
def _() -> None:
    replace("engine.linux.files:open_in_root", _follow)


@guard("working directories are made inside")
def _() -> None:
    replace("engine.runtime.paths:checked_cwd", lambda root_fd, cwd, must_exist=False: cwd or "/")
    replace("engine.linux.files:open_in_root", _follow)


@guard("unpacking before the root is entered")
def _() -> None:
    unpack = original("engine.containers.archive:Archive._unpack")

    def by_its_own_program(self: Any, container: Any, view: Any, *rest: Any) -> None:
        root = f"/proc/self/fd/{view.root_fd}"
        subprocess.run(["chroot", root, "/bin/xz", "--version"], pass_fds=[view.root_fd], check=False)
        unpack(self, container, view, *rest)

    replace("engine.containers.archive:Archive._unpack", by_its_own_program)


@guard("small regular files only")
def _() -> None:
    def read(root_fd: int, path: str, limit_bytes: int = 0) -> bytes:
        descriptor = _follow(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(limit_bytes or 1 << 20)

    replace("engine.runtime.users:read_small_file", read)


@guard("shape of the root")
def _() -> None:
    replace("engine.runtime.paths:check_root", lambda root_fd: None)


def _without_resources(*names: str) -> None:
    build = original("engine.runtime.spec:build_resources")

    def build_less(*given: Any, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = build(*given, **options)
        for name in names:
            found.pop(name, None)
        return found

    replace("engine.runtime.spec:build_resources", build_less)


@guard("limit of processes")
def _() -> None:
    _without_resources("pids")


@guard("limit of memory")
def _() -> None:
    _without_resources("memory")


@guard("limit of the log")
def _() -> None:
    replace("engine.runtime.logs:LogFiles.segment_bytes", property(lambda self: 1 << 40))


@guard("watch over the disk")
def _() -> None:
    replace("engine.containers.diskguard:DiskGuard.growing", lambda self, living: [])


@guard("bounded ring")
def _() -> None:
    replace("engine.runtime.streams:AttachPump.__init__.__defaults__", (1 << 40,))


@guard("reconciling")
def _() -> None:
    replace("engine.containers.reconcile:Reconciler.run", lambda self: [])


@guard("ownership by mark")
def _() -> None:
    kill = original("engine.linux.cgroup:Cgroups.kill")

    def kill_more(self: Any, group: str, timeout_s: float = 10.0) -> None:
        own, below, _ = group.partition("/")
        if below:
            kill(self, own.replace("wharfinger-", "somebody-else-"), timeout_s)
        kill(self, group, timeout_s)

    replace("engine.linux.cgroup:Cgroups.kill", kill_more)
