"""A node that can build: real stores, snapshots, runtime and network, all of an engine of the test's own."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.build import SCHEMAS as BUILD_SCHEMAS
from engine.build import Builder, BuildRequest, BuildResult
from engine.config import EngineConfig
from engine.content.store import ContentStore
from engine.db import Database
from engine.images.model import Image
from engine.images.store import SCHEMA as IMAGES_SCHEMA
from engine.images.store import ImageStore
from engine.linux.cgroup import Cgroups
from engine.linux.mount import LinuxMounts, unmount_below
from engine.linux.userns import SCHEMA as USERNS_SCHEMA
from engine.network import SCHEMA as NETWORK_SCHEMA
from engine.network import NetworkManager
from engine.progress import CancelToken, Message, Report, StepProgress
from engine.runtime.oci_runtime import probe
from engine.runtime.step import StepRunner
from engine.snapshots.overlay import SCHEMA as SNAPSHOTS_SCHEMA
from engine.snapshots.overlay import OverlaySnapshotter
from tests.support.busybox import make_tar
from tests.support.hostdiff import assert_nothing_left

SCHEMAS = (SNAPSHOTS_SCHEMA, IMAGES_SCHEMA, USERNS_SCHEMA, NETWORK_SCHEMA, *BUILD_SCHEMAS)
BASE = "busybox:test"


@dataclass
class Told:
    """What a build reported."""

    reports: list[Report] = field(default_factory=list)

    def __call__(self, report: Report) -> None:
        self.reports.append(report)

    def lines(self, stream: str = "") -> list[str]:
        return [
            report.text
            for report in self.reports
            if isinstance(report, Message) and (not stream or report.stream == stream)
        ]

    def output(self) -> str:
        return "\n".join(self.lines("stdout") + self.lines("stderr"))

    def statuses(self) -> dict[str, str]:
        """Return the last status of every step by its id."""
        return {report.id: report.status for report in self.reports if isinstance(report, StepProgress)}

    def reason(self, step: str) -> str:
        """Return why a step missed the cache."""
        reasons = [
            report.reason for report in self.reports if isinstance(report, StepProgress) and report.id == step
        ]
        return next((reason for reason in reversed(reasons) if reason), "")


@dataclass
class BuildNode:
    """The node. `told` is what the last build reported."""

    config: EngineConfig
    db: Database
    content: ContentStore
    snapshots: OverlaySnapshotter
    images: ImageStore
    steps: StepRunner
    network: NetworkManager
    builder: Builder
    told: Told = field(default_factory=Told)

    def build(
        self,
        dockerfile: str | None = None,
        *,
        files: Mapping[str, bytes | str] | None = None,
        cancel: CancelToken | None = None,
        **request: Any,
    ) -> BuildResult:
        """Build with `files` as the context (text `->x` is a link)."""
        self.told = Told()
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            context = request.pop("context", None)
            if files is not None:
                context = Path(folder) / "context.tar"
                context.write_bytes(make_context(files))
            wanted = BuildRequest(context=context, dockerfile=dockerfile, **request)
            return self.builder.build(wanted, self.told, cancel)

    def image(self, result: BuildResult) -> Image:
        return self.images.resolve(result.image_id)

    @contextmanager
    def root(self, result: BuildResult) -> Iterator[Path]:
        """Show the image's file system."""
        place = Path(tempfile.mkdtemp(prefix="view-", dir=self.config.run_root))
        self.snapshots.mount_view(self.image(result).chain, place)
        try:
            yield place
        finally:
            self.snapshots.unmount_view(place)
            place.rmdir()

    def tree(self, result: BuildResult, start: str = "") -> dict[str, str]:
        """Return every path of the image with kind, mode, owner and content or link target, as text to compare."""
        with self.root(result) as root:
            return describe(root, start)

    def text(self, result: BuildResult, path: str) -> str:
        with self.root(result) as root:
            return (root / path).read_text()

    def leftovers(self) -> list[str]:
        """Return what builds left that should be gone, a moment after their end."""
        for thread in threading.enumerate():
            if thread.name == "build-trash":
                thread.join()
        found = [f"snapshot {info.name}" for info in self.snapshots.walk() if info.kind == "active"]
        for folder in (
            self.config.run_root / "builds",
            self.config.data_root / "builds",
            self.config.run_root / "steps",
        ):
            if folder.is_dir():
                found += [str(path) for path in folder.iterdir()]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [line for line in mounts.splitlines() if str(self.config.run_root / "builds") in line]
        owners = self.db.read().execute("SELECT owner FROM subuid_ranges").fetchall()
        return found + [f"range of {row[0]}" for row in owners]


def make_context(files: Mapping[str, bytes | str]) -> bytes:
    """Return a tar: names ending in a slash are folders, text `->x` a link, other values files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime = 1_000_000
            data = content.encode() if isinstance(content, str) else content
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str) and content.startswith("->"):
                info.type, info.linkname, data = tarfile.SYMTYPE, content[2:], b""
            else:
                info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


def describe(root: Path, start: str = "") -> dict[str, str]:
    """Return every path below `root/start` as `kind mode uid:gid content`."""
    found = {}
    for path in sorted((root / start).rglob("*")):
        info = path.lstat()
        owner = f"{info.st_mode & 0o7777:o} {info.st_uid}:{info.st_gid}"
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_dir():
            found[name] = f"folder {owner}"
        elif not path.is_file():
            found[name] = f"other {owner}"
        else:
            data = path.read_bytes()
            shown = data.decode("utf-8", "replace") if len(data) < 200 else f"{len(data)} bytes"
            found[name] = f"file {owner} {shown}"
    return found


@contextmanager
def build_node(*, with_base: bool = True, disk: Path | None = None, **options: Any) -> Iterator[BuildNode]:
    """Make a node below /var/tmp (or `disk`), with a busybox image `busybox:test`, and remove every trace of it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="wf-build-", dir=disk or "/var/tmp"))
    instance = secrets.token_hex(4)
    runtime = os.environ.get("WHARFINGER_RUNTIME", "")
    config = EngineConfig(base / "data", Path("/run") / f"wharfinger-{instance}", instance, runtime=runtime)
    cgroups = Cgroups()
    node = None
    try:
        config.make_folders()
        node = open_node(config, **options)
        if with_base:
            node.build(
                'FROM scratch\nADD root.tar /\nCMD ["sh"]\n', files={"root.tar": make_tar()}, tags=[BASE]
            )
        yield node
    finally:
        if node is not None:
            node.db.close()
        clear(config, cgroups)
        shutil.rmtree(base, ignore_errors=True)
        assert_nothing_left(instance)


def open_node(config: EngineConfig, **options: Any) -> BuildNode:
    """Open the engine parts of a home, as each process of a node does."""
    db = Database(config.database, SCHEMAS)
    content = ContentStore(config.data_root / "content")
    snapshots = OverlaySnapshotter(config.data_root / "snapshots", db, LinuxMounts())
    images = ImageStore(db, content, snapshots)
    steps = StepRunner(config, probe(config), Cgroups())
    network = NetworkManager(config, db)
    network.restore()
    builder = Builder(config, db, images, content, snapshots, steps, network, **options)
    return BuildNode(config, db, content, snapshots, images, steps, network, builder)


def clear(config: EngineConfig, cgroups: Cgroups) -> None:
    """Remove everything of an engine from the host."""
    group = f"wharfinger-{config.instance}"
    with suppress(OSError):
        cgroups.kill(group)
        cgroups.remove(group)
    for folder in (config.run_root, config.data_root):
        unmount_below(LinuxMounts(), folder, detach=True)
    shutil.rmtree(config.run_root, ignore_errors=True)
    links = json.loads(
        subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout
    )
    for link in links:
        if config.instance[:6] in link["ifname"] or config.instance in link.get("ifalias", ""):
            subprocess.run(["ip", "link", "del", link["ifname"]], check=False, capture_output=True)
    listed = subprocess.run(
        ["nft", "-j", "list", "tables"], capture_output=True, text=True, check=False
    ).stdout
    for item in json.loads(listed or '{"nftables": []}')["nftables"]:
        table = item.get("table")
        if table and config.instance in table["name"]:
            subprocess.run(["nft", "delete", "table", table["family"], table["name"]], check=False)
