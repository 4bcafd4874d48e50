"""What is measured with: a Debian root file system, folders to build, an image of many layers. Made once, kept beside."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from tests.support.debian import debian_rootfs_tar

FILES, FILE_BYTES = 10_000, 8_000


def debian_tar() -> Path:
    return debian_rootfs_tar()


def steps_context(folder: Path, base: str) -> Path:
    """Ten RUN steps that do next to nothing: what a step itself costs."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"FROM {base}", *(f"RUN echo step {number} > /s{number}" for number in range(10))]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return folder


def copy_context(folder: Path, base: str) -> Path:
    """Ten thousand files, 80 MB."""
    source = folder / "src"
    if not source.is_dir():
        generator = random.Random(1)
        for number in range(100):
            (source / f"d{number}").mkdir(parents=True)
            for name in range(FILES // 100):
                data = generator.randbytes(2000) + b"x" * (FILE_BYTES - 2000)
                (source / f"d{number}" / f"f{name}.py").write_bytes(data)
    (folder / "Dockerfile").write_text(f"FROM {base}\nWORKDIR /app\nCOPY src /app/src\n")
    return folder


def stages_context(folder: Path, base: str) -> Path:
    """Three independent stages of two seconds each."""
    folder.mkdir(parents=True, exist_ok=True)
    stages = [f"FROM {base} AS {name}\nRUN sleep 2; echo {name} > /{name}" for name in "abc"]
    copies = "\n".join(f"COPY --from={name} /{name} /{name}" for name in "abc")
    (folder / "Dockerfile").write_text("\n".join(stages) + f"\nFROM {base}\n{copies}\n")
    return folder


def layers_context(folder: Path) -> Path:
    """Twenty layers of ten megabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(2)
    lines = ["FROM scratch"]
    for number in range(20):
        target = folder / f"blob{number}"
        if not target.exists():
            target.write_bytes(generator.randbytes(10_000_000))
        lines.append(f"COPY blob{number} /blob{number}")
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return folder


def unpacked(tar: Path, folder: Path) -> Path:
    """Return a folder with the root file system and a Dockerfile that adds it, for engines that cannot import quickly."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "deb.tar"
    if not target.exists():
        subprocess.run(["cp", "--reflink=auto", str(tar), str(target)], check=True)
    (folder / "Dockerfile").write_text('FROM scratch\nADD deb.tar /\nCMD ["bash"]\n')
    return folder


def fill_volume(folder: Path, size: int = 1_000_000_000, *, segment: int = 64 * 2**20) -> int:
    """Fill a folder as a database does: `size` bytes of real content in files of `segment` bytes; return how many files."""
    number = 0
    with debian_tar().open("rb") as source:
        while size > 0:
            data = source.read(min(segment, size))
            if not data:
                source.seek(0)
                continue
            (folder / f"{16384 + number}").write_bytes(data)
            number, size = number + 1, size - len(data)
    return number


def fill_with_files(folder: Path) -> int:
    """Fill a folder with a Debian root file system; return how many files it has."""
    subprocess.run(["tar", "-xf", str(debian_tar()), "-C", str(folder), "--exclude=./dev/*"], check=True)
    return sum(path.is_file() and not path.is_symlink() for path in folder.rglob("*"))
