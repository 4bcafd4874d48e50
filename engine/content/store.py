"""The content store: blobs named by their sha256, each whole and right or not there at all.

A blob is written to a temporary file and hashed on the way; at `commit` it is synced, checked against the expected
size and digest, renamed to its name and made read-only (D9). Nobody ever sees half a blob.

Writers that make many small blobs at once (a build) may commit with `sync=False`: the blob then waits in a folder
named after this boot, is found like any other, and moves to its durable place with the next `sync()`. After a power
cut that folder belongs to another boot and is thrown away, so an unsynced blob can be lost but never be wrong.

```text
blobs/sha256/<hex>     durable, mode 0444       ingest/            being written; a flock says by somebody alive
recent/<boot>/<hex>    written in this boot     leases/ gc.lock    see engine.content.leases
quarantine/<hex>       found damaged by `verify`
```
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from engine.content.leases import Lease, Leases
from engine.digest import Digest, digest_bytes, hex_of
from engine.errors import BadDigest, Corrupt, InvalidInput, NotFound, Unavailable
from engine.linux.boot import boot_id
from engine.linux.files import fsync_dir, opened, space_translated, syncfs, write_all

CHUNK = 1024 * 1024
READ_LIMIT = 4 * 1024 * 1024
SYNC_LIMIT = 64  # blobs
PARTIAL_AGE_S = 24 * 3600.0
_LOCK_ATTEMPTS = 4


class Blob(NamedTuple):
    """Name and size in bytes of a stored blob."""

    digest: Digest
    size: int


class ContentStore:
    """The blobs of one node. Safe for any number of threads and processes at once.

    `leases` is the folder of the leases; on a tmpfs they still work when the disk is full. All processes of a node must
    name the same one.
    """

    def __init__(self, root: Path, leases: Path | None = None, *, boot: str = "") -> None:
        self._root = root
        self._blobs = root / "blobs" / "sha256"
        self._boot = boot or boot_id()
        self._recent = root / "recent" / self._boot
        self._ingest = root / "ingest"
        self._quarantine = root / "quarantine"
        for folder in (self._blobs, self._recent, self._ingest, self._quarantine):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._leases = Leases(leases or root)

    @property
    def root(self) -> Path:
        return self._root

    @property
    def leases(self) -> Leases:
        return self._leases

    def writer(
        self, expected: Digest | None = None, size: int | None = None, resume_key: str = ""
    ) -> BlobWriter:
        """Begin a blob. With `resume_key` a part written earlier under the same key is continued at `.offset`.

        Raises `Unavailable` while another writer holds the same resume key.
        """
        return BlobWriter(self, expected, size, resume_key)

    def put(self, data: bytes | BinaryIO, expected: Digest | None = None, *, sync: bool = True) -> Blob:
        """Store a blob. Idempotent: success means "the blob is here", not "this call put it here"."""
        if isinstance(data, bytes):
            name = digest_bytes(data)
            if expected in (None, name) and self.has(name):
                return Blob(name, len(data))
        with self.writer(expected) as writer:
            if isinstance(data, bytes):
                writer.write(data)
            else:
                while chunk := data.read(CHUNK):
                    writer.write(chunk)
            return writer.commit(sync=sync)

    def path(self, digest: Digest) -> Path:
        """Return the file of a blob; raises `NotFound`."""
        for folder in (self._blobs, self._recent):
            path = folder / hex_of(digest)
            if path.exists():
                return path
        durable = self._blobs / hex_of(digest)  # `sync` may have moved it between the two looks
        if durable.exists():
            return durable
        raise NotFound(f"no blob {digest} on this node", digest=digest)

    def has(self, digest: Digest) -> bool:
        try:
            self.path(digest)
        except NotFound:
            return False
        return True

    def size(self, digest: Digest) -> int:
        """Return the size in bytes of a blob; raises `NotFound`."""
        return self.path(digest).stat().st_size

    def open(self, digest: Digest) -> FileIO:
        """Open a blob for reading, its digest not checked; raises `NotFound`."""
        try:
            return FileIO(self.path(digest))
        except FileNotFoundError:
            return FileIO(self.path(digest))  # moved by `sync` in between, or really gone: NotFound

    def open_verified(self, digest: Digest) -> VerifyingReader:
        """Open a blob for reading; the read that reaches its end raises `Corrupt` if the digest does not match."""
        return VerifyingReader(self.open(digest), digest)

    def read(self, digest: Digest, limit: int = READ_LIMIT) -> bytes:
        """Return a small blob, verified. Raises `NotFound`, `Corrupt`, or `InvalidInput` when larger than `limit`."""
        with self.open(digest) as file:
            data = bytearray()
            while chunk := file.read(limit + 1 - len(data)):
                data += chunk
                if len(data) > limit:
                    raise InvalidInput(f"blob {digest} is larger than {limit} bytes")
        if digest_bytes(bytes(data)) != digest:
            raise _damaged(digest)
        return bytes(data)

    def verify(self, digest: Digest) -> bool:
        """Tell whether a blob's bytes match its name; reads all of it. Raises `NotFound`."""
        with self.open(digest) as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == digest

    def quarantine(self, digest: Digest) -> None:
        """Take a damaged blob out of the store, so that it is fetched again; its bytes are kept for a look."""
        self.path(digest).rename(self._quarantine / hex_of(digest))
        fsync_dir(self._blobs)

    def remove(self, digest: Digest) -> None:
        """Remove a blob; one that is not there counts as done. Who may need it is the caller's to know."""
        for folder in (self._blobs, self._recent):
            (folder / hex_of(digest)).unlink(missing_ok=True)

    def walk(self) -> Iterator[Blob]:
        """Give every blob of the store."""
        for folder in (self._recent, self._blobs):
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        yield Blob(Digest(f"sha256:{entry.name}"), entry.stat().st_size)
                    except FileNotFoundError:
                        continue  # removed or moved meanwhile

    def sync(self, *, flushed: bool = False) -> None:
        """Make every blob committed so far durable. `flushed`: the caller has synced the file system since."""
        names = os.listdir(self._recent)
        if not names:
            return
        if not flushed:
            self._flush(names)
        for name in names:
            try:
                (self._recent / name).rename(self._blobs / name)
            except FileNotFoundError:
                continue  # another process synced or removed it
        fsync_dir(self._blobs)

    def _flush(self, names: list[str]) -> None:
        """Sync a few blobs one by one, many with everything else on the file system."""
        with space_translated("a blob"):
            if len(names) > SYNC_LIMIT:
                syncfs(self._root)
                return
            for name in names:
                with suppress(FileNotFoundError), FileIO(self._recent / name) as file:
                    os.fsync(file.fileno())

    @contextmanager
    def lease(self, owner: str) -> Iterator[Lease]:
        """Protect what is added to the lease from garbage collection until the block ends or the process dies."""
        with self._leases.hold(owner) as lease:
            yield lease

    def sweep(self, partial_age_s: float = PARTIAL_AGE_S) -> list[str]:
        """Remove what dead writers and earlier boots left behind; return the names. Resumable parts stay a day."""
        removed = []
        for folder in (self._root / "recent").iterdir():
            if folder.name != self._boot:
                removed.append(f"recent/{folder.name}")
                for file in folder.iterdir():
                    file.unlink(missing_ok=True)
                folder.rmdir()
        for file in self._ingest.iterdir():
            if _remove_abandoned(file, partial_age_s):
                removed.append(f"ingest/{file.name}")
        return removed

    def ingest_path(self, resume_key: str) -> Path:
        """Return the temporary file for a writer (for `BlobWriter`)."""
        if not resume_key:
            return self._ingest / f"new-{secrets.token_hex(12)}"
        return self._ingest / f"resume-{hashlib.sha256(resume_key.encode()).hexdigest()}"

    def place(self, temporary: Path, digest: Digest, *, sync: bool) -> None:
        """Give a complete temporary file its name (for `BlobWriter`)."""
        if not sync:
            temporary.rename(self._recent / hex_of(digest))
            return
        temporary.rename(self._blobs / hex_of(digest))
        fsync_dir(self._blobs)


class BlobWriter:
    """A blob being written; a context manager that forgets the bytes unless `commit` was called.

    A writer with a resume key keeps them instead, for the next writer with that key. `cut` marks the bytes as wrong.
    """

    def __init__(
        self, store: ContentStore, expected: Digest | None, size: int | None, resume_key: str
    ) -> None:
        self._store = store
        self._expected = expected
        self._size = size
        self._keep = bool(resume_key)
        self._path = store.ingest_path(resume_key)
        self._hash = hashlib.sha256()
        self.offset = 0
        self._fd = self._open_locked()
        self._open = True
        if self._keep:
            self._take_up()

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`; raises `BadDigest` when there is more than was announced, `NoSpace` on a full disk."""
        self.offset += len(data)
        if self._size is not None and self.offset > self._size:
            self.cut()
            raise BadDigest(
                f"the blob is longer than the {self._size} bytes announced", digest=self._expected or ""
            )
        with space_translated("a blob"):
            write_all(self._fd, data)
        self._hash.update(data)
        return len(data)

    def restart(self) -> None:
        """Begin again at offset 0 (the sender could not continue where we were)."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.offset = 0

    def digest(self) -> Digest:
        """Return the digest of what was written so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def commit(self, *, sync: bool = True) -> Blob:
        """Check, sync and publish the blob; raises `BadDigest` and forgets the bytes when they are not the expected ones."""
        digest = self.digest()
        if self._size is not None and self.offset != self._size:
            self.cut()
            raise BadDigest(
                f"the blob has {self.offset} bytes, {self._size} were announced", digest=self._expected or ""
            )
        if self._expected is not None and digest != self._expected:
            self.cut()
            raise BadDigest(f"the content is {digest}, not {self._expected}", digest=self._expected)
        with space_translated("a blob"):
            os.fchmod(self._fd, 0o444)
            if sync:
                os.fsync(self._fd)
            self._store.place(self._path, digest, sync=sync)
        self._close()
        return Blob(digest, self.offset)

    def cut(self) -> None:
        """Forget the bytes, also those kept for a resume."""
        if self._open:
            self._path.unlink(missing_ok=True)
            self._close()

    def abort(self) -> None:
        """End without a blob; a writer with a resume key keeps its bytes."""
        if self._open and self._keep and self.offset:
            self._close()
        else:
            self.cut()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.abort()

    def _open_locked(self) -> int:
        """Open the file at the path and lock it. A file that was published or swept between the two is let go again."""
        for attempt in range(_LOCK_ATTEMPTS):
            with space_translated("a blob"):
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(self._path)):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError:
                time.sleep(0.002 * attempt)  # a sweep holds it for a moment, a writer for long
            os.close(fd)
        raise Unavailable("another operation is fetching this blob", hint="try again when it is done")

    def _take_up(self) -> None:
        """Hash what an earlier writer left, so that writing goes on after it."""
        while chunk := os.read(self._fd, CHUNK):
            self._hash.update(chunk)
            self.offset += len(chunk)
        if self._size is not None and self.offset > self._size:
            self.restart()

    def _close(self) -> None:
        self._open = False
        os.close(self._fd)


class VerifyingReader:
    """A blob's bytes in order; raises `Corrupt` at the end when they were not those that the name promises."""

    def __init__(self, file: FileIO, digest: Digest) -> None:
        self._file = file
        self._digest = digest
        self._hash = hashlib.sha256()

    def read(self, size: int = CHUNK) -> bytes:
        data = self._file.read(size)
        if data:
            self._hash.update(data)
        elif size and "sha256:" + self._hash.hexdigest() != self._digest:
            raise _damaged(self._digest)
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> VerifyingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(digest: Digest) -> Corrupt:
    return Corrupt(f"blob {digest} is damaged on disk", hint="run check and repair", digest=digest)


def _remove_abandoned(file: Path, partial_age_s: float) -> bool:
    """Remove a temporary file that no writer holds; resumable ones only when they are old."""
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with opened(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if file.name.startswith("resume-") and time.time() - os.fstat(fd).st_mtime < partial_age_s:
            return False
        try:
            if os.path.samestat(os.fstat(fd), file.stat()):
                file.unlink()
                return True
        except FileNotFoundError:
            pass  # published or removed between open and lock
        return False
