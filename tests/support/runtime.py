"""An engine's home in a temporary folder, and roots for the runtime to run on, without an image store."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.db import Database
from engine.linux.cgroup import Cgroups
from engine.linux.mount import LinuxMounts, unmount_below
from engine.linux.userns import SCHEMA, IdMap, RangeAllocator, temporary_userns
from engine.runtime.oci_runtime import OciRuntime, probe
from tests.support.busybox import make_root


@dataclass(frozen=True)
class Home:
    config: EngineConfig
    db: Database
    cgroups: Cgroups
    runtime: OciRuntime
    ranges: RangeAllocator
    image: Path  # a busybox root, owned by real root


@contextmanager
def engine_home() -> Iterator[Home]:
    """Make a home below /var/tmp (overlayfs needs a real file system) and remove every trace of it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="wf-test-", dir="/var/tmp"))
    instance = secrets.token_hex(4)
    runtime = os.environ.get("WHARFINGER_RUNTIME", "")
    config = EngineConfig(base / "data", Path("/run") / f"wharfinger-{instance}", instance, runtime=runtime)
    cgroups = Cgroups()
    try:
        config.make_folders()
        db = Database(config.database, (SCHEMA,))
        image = make_root(base / "image")
        yield Home(config, db, cgroups, probe(config), RangeAllocator(db, config), image)
    finally:
        group = f"wharfinger-{instance}"
        cgroups.kill(group)
        cgroups.remove(group)
        for folder in (base, config.run_root):
            unmount_below(LinuxMounts(), folder, detach=True)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mounted_root(home: Home, *, image: Path | None = None) -> Iterator[tuple[Path, Path, IdMap]]:
    """Mount an overlay whose lower is idmapped; yield the merged folder, the upper folder and the map."""
    mounts = LinuxMounts()
    place = Path(tempfile.mkdtemp(prefix="root-", dir=home.config.data_root))
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    owner = place.name
    with temporary_userns(home.ranges, owner, home.config.run_root / "ns" / owner) as idmap:
        mounts.idmap(str(image or home.image), str(place / "lower"), idmap.userns_fd)
        os.chown(place / "upper", idmap.host_start, idmap.host_start)
        options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        mounts.mount("overlay", str(place / "merged"), "overlay", 0, options)
        try:
            yield place / "merged", place / "upper", idmap
        finally:
            mounts.unmount(str(place / "merged"), detach=True)
            mounts.unmount(str(place / "lower"), detach=True)
            shutil.rmtree(place)
