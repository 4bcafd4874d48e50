"""A root file system with nothing but Debian's static busybox: a folder or a tar."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from functools import lru_cache
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
FOLDERS = ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "var/run", "home")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\nnetdev:x:60:alice,root\n"


@lru_cache(maxsize=1)
def applets() -> tuple[str, ...]:
    """Return the names of busybox's programs."""
    return tuple(
        subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    )


def make_root(folder: Path) -> Path:
    """Fill `folder` with a small root: busybox and its links, `passwd`, `group`, and the usual empty folders."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in applets():
        link = folder / "bin" / name
        if name != "busybox" and not link.is_symlink():
            link.symlink_to("busybox")
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    return folder


def make_tar() -> bytes:
    """Return the same root as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        _add(archive, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for name in applets():
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        _add(archive, "etc/passwd", PASSWD.encode(), 0o644)
        _add(archive, "etc/group", GROUP.encode(), 0o644)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
