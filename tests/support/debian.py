"""A real Debian root file system, made once and kept between runs (mmdebstrap, minbase with Python)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from engine.linux.locks import file_lock

CACHE = Path(os.environ.get("WHARFINGER_TEST_CACHE", "/var/cache/wharfinger-tests"))


def debian_rootfs_tar() -> Path:
    """Return a tar of about 190 MB; made with mmdebstrap on first use, by whoever comes first."""
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / "debian-bookworm-python.tar"
    with file_lock(CACHE / "debian.lock", timeout_s=900):
        if not target.exists():
            partial = target.with_suffix(".partial.tar")
            include = "--include=python3,ca-certificates"
            subprocess.run(
                ["mmdebstrap", "--variant=minbase", include, "bookworm", str(partial), *_mirror()],
                check=True,
                capture_output=True,
            )
            partial.rename(target)
    return target


def _mirror() -> list[str]:
    """Return the host's own Debian mirror where it names one, so that the test fetches from where apt does."""
    for source in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if source.exists():
            for line in source.read_text().splitlines():
                words = line.split()
                address = next((word for word in words if "://" in word), "")
                if words and words[0] in ("URIs:", "deb") and "security" not in address:
                    return [address]
    return []
