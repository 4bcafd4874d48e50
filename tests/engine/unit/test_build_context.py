"""Build contexts: what of an upload is unpacked, what is known about it, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.build.context import BuildContext, folder_context, unpack_context
from engine.build.trees import Facts, Tree
from engine.errors import BadArchive, DockerfileError, InvalidInput

pytestmark = pytest.mark.root


def _tar(path: Path, *entries: tuple[str, bytes | str], mode: str = "w") -> Path:
    """Write a tar of files (bytes), links (`->target`), hard links (`=>target`) and folders (names with a slash)."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in entries:
            info = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content[2:]
            else:
                info.size, info.mode = len(content), 0o640
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def _load(archive: Path, tmp_path: Path, dockerfile: str = "Dockerfile") -> BuildContext:
    return unpack_context(archive, tmp_path / "staging", dockerfile, check=lambda: None)


def _files(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()
    )


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_of_any_packing_is_unpacked_and_hashed(tmp_path: Path, mode: str) -> None:
    archive = _tar(tmp_path / "c", ("Dockerfile", b"FROM scratch"), ("a/b", b"hello"), mode=mode)
    context = _load(archive, tmp_path)
    assert _files(context.tree.root) == ["Dockerfile", "a/b"]
    assert context.dockerfile == b"FROM scratch"
    assert context.tree.known["a/b"].digest == hashlib.sha256(b"hello").digest()
    assert context.size_bytes == 17


def test_ignored_files_are_not_written(tmp_path: Path) -> None:
    ignore = b"node_modules\n*.log\n!keep.log\nDockerfile\n"
    archive = _tar(
        tmp_path / "c",
        (".dockerignore", ignore),
        ("node_modules/x", b"1" * 100),
        ("a.log", b"2"),
        ("keep.log", b"3"),
        ("Dockerfile", b"FROM a"),
    )
    context = _load(archive, tmp_path)
    assert _files(context.tree.root) == [".dockerignore", "keep.log"]
    assert context.dockerfile == b"FROM a"
    assert context.ignored_bytes == 107


def test_an_ignore_file_at_the_end_counts_for_what_came_before(tmp_path: Path) -> None:
    archive = _tar(
        tmp_path / "c", ("x/", b""), ("x/a.log", b"1"), ("x/b", b"2"), (".dockerignore", b"**/*.log\nz\n")
    )
    assert _files(_load(archive, tmp_path).tree.root) == [".dockerignore", "x/b"]


def test_the_ignore_file_of_the_dockerfile_wins_wherever_it_stands(tmp_path: Path) -> None:
    archive = _tar(
        tmp_path / "c",
        (".dockerignore", b"a\n"),
        ("a", b"1"),
        ("b", b"2"),
        ("my.df.dockerignore", b"b\n"),
        ("my.df", b"X"),
    )
    context = _load(archive, tmp_path, "my.df")
    assert _files(context.tree.root) == [".dockerignore", "a", "my.df", "my.df.dockerignore"]
    assert context.dockerfile == b"X"


def test_a_hard_link_to_an_ignored_file_keeps_its_content(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "c", (".dockerignore", b"secret\n"), ("secret", b"123"), ("public", "=>secret"))
    context = _load(archive, tmp_path)
    assert _files(context.tree.root) == [".dockerignore", "public"]
    assert (context.tree.root / "public").read_bytes() == b"123"


def test_hashes_are_not_believed_when_a_link_led_elsewhere(tmp_path: Path) -> None:
    """BU-11: a file written through a link would otherwise keep the hash of what was there before."""
    archive = _tar(tmp_path / "c", ("real/f", b"old"), ("link", "->real"), ("link/f", b"new"))
    context = _load(archive, tmp_path)
    fact = next(fact for fact in context.tree.facts("", "") if fact.path == "real/f")
    assert fact.digest == hashlib.sha256(b"new").digest()


@pytest.mark.parametrize(
    ("name", "content"),
    [("../x", b"1"), ("a/../../x", b"1"), ("a", "=>../../etc/passwd"), ("fifo", None), ("device", None)],
)
def test_hostile_entries_are_refused_and_leave_nothing(
    tmp_path: Path, name: str, content: bytes | str | None
) -> None:
    """AR-01, AR-03, AR-06: the entry is named, the staging folder is gone."""
    archive = tmp_path / "c"
    if content is None:
        with tarfile.open(archive, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type = tarfile.FIFOTYPE if name == "fifo" else tarfile.CHRTYPE
            tar.addfile(info)
    else:
        _tar(archive, ("ok", b"1"), (name, content))
    with pytest.raises(BadArchive) as caught:
        _load(archive, tmp_path)
    assert caught.value.entry
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "..", "a\0b"])
def test_a_dockerfile_outside_the_context_is_refused(tmp_path: Path, path: str) -> None:
    """BU-01: without a word of what is there."""
    with pytest.raises(DockerfileError, match="outside the build context"):
        folder_context(tmp_path, path)


def test_links_of_a_context_never_lead_out_of_it(tmp_path: Path) -> None:
    """BU-01, BU-02: a Dockerfile, an ignore file or a source that is a link to a host file is not there."""
    (tmp_path / "outside").write_text("FROM secret")
    folder = tmp_path / "context"
    folder.mkdir()
    for name in ("Dockerfile", ".dockerignore", "leak"):
        (folder / name).symlink_to(tmp_path / "outside")
    context = folder_context(folder, "Dockerfile")
    assert context.dockerfile is None
    assert context.ignore is None
    assert context.tree.resolve("leak") is None
    assert [(fact.path, fact.kind) for fact in context.tree.facts("", "") if fact.path == "leak"] == [
        ("leak", "l")
    ]


def test_a_fifo_as_dockerfile_does_not_block(tmp_path: Path) -> None:
    """AR-16: only regular files are read."""
    os.mkfifo(tmp_path / "Dockerfile")
    with pytest.raises(InvalidInput, match="not a regular file"):
        folder_context(tmp_path, "Dockerfile")


def test_links_inside_the_context_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("x")
    (tmp_path / "one").symlink_to("/real")
    (tmp_path / "real" / "two").symlink_to("../real/f")
    tree = Tree(tmp_path, "test")
    assert tree.resolve("one/two") == "real/f"
    assert tree.resolve("../../one/f") == "real/f"
    assert tree.resolve("one/missing") is None


def test_wildcards_match_within_one_folder(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1", "sub/a3", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    tree = Tree(tmp_path, "test")
    assert tree.glob("a*") == ["a1", "a2"]
    assert tree.glob("*/a?") == ["sub/a3"]
    assert tree.glob("[ab]1") == ["a1", "b1"]
    assert ".hidden" in tree.glob("*")


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.write_bytes(b"other"),
        lambda f: f.chmod(0o755),
        lambda f: os.chown(f, 5, 0),
        lambda f: os.setxattr(f, "user.x", b"y"),
        lambda f: f.rename(f.with_name("renamed")),
        lambda f: (f.unlink(), f.symlink_to("z")),
    ],
    ids=["bytes", "mode", "owner", "attribute", "name", "kind"],
)
def test_a_fingerprint_changes_with_what_counts(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """BU-11: same size and time, other bytes, mode, owner, attribute or link: another fingerprint."""
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    os.utime(file, ns=(1, 1))
    before = Facts([list(Tree(tmp_path, "test").facts("", ""))]).fingerprint()
    change(file)
    if file.exists():
        os.utime(file, ns=(1, 1))
    assert Facts([list(Tree(tmp_path, "test").facts("", ""))]).fingerprint() != before


def test_a_fingerprint_does_not_change_with_times(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"bytes")
    before = Facts([list(Tree(tmp_path, "test").facts("", ""))]).fingerprint()
    os.utime(tmp_path / "f", ns=(5, 5))
    assert Facts([list(Tree(tmp_path, "test").facts("", ""))]).fingerprint() == before


def _zip(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def test_a_zip_is_unpacked_with_modes_and_links(tmp_path: Path) -> None:
    archive = _zip(
        tmp_path / "c",
        ("Dockerfile", b"FROM a", 0o100644),
        ("run.sh", b"#!", 0o100755),
        ("l", b"run.sh", 0o120777),
    )
    root = _load(archive, tmp_path).tree.root
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "l").readlink() == Path("run.sh")


@pytest.mark.parametrize("name", ["..\\x", "C:x", "../x"])
def test_hostile_zip_names_are_refused(tmp_path: Path, name: str) -> None:
    """AR-11: backslashes, drive letters and ways out."""
    with pytest.raises(BadArchive):
        _load(_zip(tmp_path / "c", (name, b"1", 0o100644)), tmp_path)
    assert not (tmp_path / "staging").exists()


def test_overlapping_zip_entries_are_refused(tmp_path: Path) -> None:
    """AR-10: CVE-2024-0450, one compressed run behind many names."""
    archive = _zip(tmp_path / "c", ("a", b"1" * 1000, 0o100644), ("b", b"1" * 1000, 0o100644))
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        second = opened.infolist()[1].header_offset
    entry = data.rindex(b"PK\x01\x02")
    archive.write_bytes(data[: entry + 42] + (0).to_bytes(4, "little") + data[entry + 46 :])
    assert second > 0
    with pytest.raises(BadArchive, match=r"overlap|differ"):
        _load(archive, tmp_path)


def test_a_cut_zip_is_refused(tmp_path: Path) -> None:
    """AR-12: truncation is an error, whatever was there."""
    archive = _zip(tmp_path / "c", ("a", os.urandom(5000), 0o100644))
    archive.write_bytes(archive.read_bytes()[:4000])
    with pytest.raises(BadArchive):
        _load(archive, tmp_path)
