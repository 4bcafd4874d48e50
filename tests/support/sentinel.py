"""A tree that stands outside of everything under test, and a fingerprint that tells whether anything touched it (H4)."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest


def make_sentinel(root: Path) -> Path:
    """Fill `root` with what an attack would go for: files, a setuid program, folders, links, attributes."""
    (root / "etc/cron.d").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/shadow").write_text("root:*:0::::::\n")
    (root / "etc/shadow").chmod(0o600)
    (root / "bin").mkdir()
    (root / "bin/su").write_bytes(b"\x7fELF")
    (root / "bin/su").chmod(0o4755)
    (root / "link").symlink_to("etc/passwd")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "etc/passwd", "user.sentinel", b"1")
    for path in sorted(root.rglob("*")):
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    os.utime(root, (1_500_000_000, 1_500_000_000))
    return root


def fingerprint(root: Path) -> str:
    """Return a hash of names, bytes, modes, owners, times, link counts and attributes of everything below `root`."""
    total = hashlib.sha256()
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        values = [
            str(path.relative_to(root)),
            oct(info.st_mode),
            info.st_uid,
            info.st_gid,
            info.st_mtime_ns,
            info.st_nlink,
        ]
        if stat.S_ISREG(info.st_mode):
            values.append(path.read_bytes().hex())
        if stat.S_ISLNK(info.st_mode):
            values.append(str(path.readlink()))
        else:
            values += [(name, os.getxattr(path, name).hex()) for name in sorted(os.listxattr(path))]
        total.update(repr(values).encode())
    return total.hexdigest()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A sentinel tree beside the test's own folders; the test fails if anything in it changes."""
    root = make_sentinel(tmp_path / "sentinel")
    before = fingerprint(root)
    yield root
    assert fingerprint(root) == before, "something outside was touched"
