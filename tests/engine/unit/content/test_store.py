"""A blob is whole and right or not there; a lease keeps the collector away; what dead processes left is swept."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from engine.content import ContentStore
from engine.digest import Digest, digest_bytes
from engine.errors import BadDigest, Corrupt, InvalidInput, NotFound, Unavailable

DATA = b"some content" * 1000
NAME = digest_bytes(DATA)
OTHER = digest_bytes(b"other")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def blobs(store: ContentStore) -> list[str]:
    return sorted(blob.digest for blob in store.walk())


def partial_files(store: ContentStore) -> list[str]:
    return os.listdir(store.root / "ingest")


def test_put_and_read_back(store: ContentStore) -> None:
    assert store.put(DATA) == (NAME, len(DATA))
    assert store.put(io.BytesIO(DATA), NAME) == (NAME, len(DATA))
    assert store.has(NAME)
    assert store.size(NAME) == len(DATA)
    assert store.read(NAME) == DATA
    with store.open(NAME) as file:
        assert file.read() == DATA
    assert blobs(store) == [NAME]


def test_a_blob_is_read_only_and_nobody_elses(store: ContentStore) -> None:
    store.put(DATA)
    assert stat.S_IMODE(store.path(NAME).stat().st_mode) == 0o444
    assert stat.S_IMODE(store.path(NAME).parent.stat().st_mode) == 0o700


def test_a_missing_blob_is_not_found(store: ContentStore) -> None:
    for verb in (store.open, store.read, store.size, store.path, store.verify):
        with pytest.raises(NotFound):
            verb(NAME)
    assert not store.has(NAME)
    store.remove(NAME)


def test_nothing_is_seen_before_the_commit(store: ContentStore) -> None:
    with store.writer(NAME) as writer:
        writer.write(DATA)
        assert blobs(store) == []
        writer.commit()
        assert blobs(store) == [NAME]


def test_a_writer_without_commit_leaves_nothing(store: ContentStore) -> None:
    with store.writer() as writer:
        writer.write(DATA)
    assert blobs(store) == []
    assert partial_files(store) == []


@pytest.mark.parametrize(("expected", "size"), [(OTHER, None), (NAME, 1), (NAME, len(DATA) + 1), (None, 5)])
def test_wrong_content_is_refused_and_forgotten(
    store: ContentStore, expected: Digest | None, size: int | None
) -> None:
    with store.writer(expected, size, resume_key="k") as writer:
        with pytest.raises(BadDigest):
            writer.write(DATA)
            writer.commit()
    assert blobs(store) == []
    assert partial_files(store) == []


def test_a_part_is_taken_up_again(store: ContentStore) -> None:
    with store.writer(NAME, len(DATA), "key") as writer:
        writer.write(DATA[:5000])
    with store.writer(NAME, len(DATA), "key") as writer:
        assert writer.offset == 5000
        writer.write(DATA[5000:])
        assert writer.commit().digest == NAME
    assert partial_files(store) == []


def test_a_part_can_be_begun_again(store: ContentStore) -> None:
    with store.writer(NAME, resume_key="key") as writer:
        writer.write(b"wrong")
    with store.writer(NAME, resume_key="key") as writer:
        writer.restart()
        writer.write(DATA)
        assert writer.commit().digest == NAME


def test_a_part_with_wrong_bytes_does_not_poison_the_next(store: ContentStore) -> None:
    with store.writer(NAME, resume_key="key") as writer:
        writer.write(b"wrong")
        with pytest.raises(BadDigest):
            writer.commit()
    with store.writer(NAME, resume_key="key") as writer:
        assert writer.offset == 0


def test_two_writers_never_share_a_part(store: ContentStore) -> None:
    with store.writer(NAME, resume_key="key"):
        with pytest.raises(Unavailable):
            store.writer(NAME, resume_key="key")
        with store.writer(NAME, resume_key="other key"):
            pass


def test_writing_the_same_blob_at_once_is_one_blob(store: ContentStore) -> None:
    threads = [threading.Thread(target=store.put, args=(io.BytesIO(DATA),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs(store) == [NAME]
    assert partial_files(store) == []


def test_damage_is_noticed_on_every_verified_read(store: ContentStore) -> None:
    """F-25."""
    store.put(DATA)
    path = store.path(NAME)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"!")
    assert not store.verify(NAME)
    with pytest.raises(Corrupt):
        store.read(NAME)
    with store.open_verified(NAME) as reader, pytest.raises(Corrupt):
        while reader.read(1000):
            pass
    store.quarantine(NAME)
    assert not store.has(NAME)
    assert store.put(DATA).digest == NAME


def test_a_large_blob_is_not_read_whole(store: ContentStore) -> None:
    store.put(DATA)
    with pytest.raises(InvalidInput):
        store.read(NAME, limit=100)


# blobs that are not synced yet


def test_unsynced_blobs_are_found_and_become_durable(store: ContentStore) -> None:
    store.put(DATA, sync=False)
    assert store.read(NAME) == DATA
    assert "recent" in str(store.path(NAME))
    store.sync()
    assert "blobs" in str(store.path(NAME))
    assert store.read(NAME) == DATA
    assert blobs(store) == [NAME]


def test_unsynced_blobs_of_another_boot_do_not_count(store: ContentStore) -> None:
    """F-24: after a power cut a blob that was never synced may hold anything."""
    store.put(DATA, sync=False)
    (store.root / "recent" / os.listdir(store.root / "recent")[0]).rename(
        store.root / "recent" / "another-boot"
    )
    again = ContentStore(store.root)
    assert not again.has(NAME)
    assert again.sweep() == ["recent/another-boot"]
    again.put(DATA)
    assert again.has(NAME)


def test_a_reader_does_not_mind_a_sync_in_between(store: ContentStore) -> None:
    stop = threading.Event()
    failures: list[Exception] = []
    names: list[Digest] = []

    def read() -> None:
        while not stop.is_set():
            for name in names[-40:]:
                try:
                    store.read(name)
                except NotFound as error:
                    failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(30):
        names += [store.put(b"%d %d" % (number, index), sync=False).digest for index in range(20)]
        store.sync()
    stop.set()
    thread.join()
    assert failures == []


# leases


def test_a_lease_protects_what_is_added(store: ContentStore) -> None:
    with store.lease("pull") as lease:
        lease.add(NAME, OTHER)
        with store.leases.collecting() as held:
            assert held == {NAME, OTHER}
    with store.leases.collecting() as held:
        assert held == set()
    assert os.listdir(store.root / "leases") == []


def test_adding_waits_while_something_is_collected(store: ContentStore) -> None:
    """F-07: after `add` returns the collector is done or sees the name."""
    order: list[str] = []

    def add() -> None:
        with store.lease("pull") as lease:
            lease.add(NAME)
            order.append("added")

    thread = threading.Thread(target=add)
    with store.leases.collecting():
        thread.start()
        time.sleep(0.05)
        order.append("collected")
    thread.join()
    assert order == ["collected", "added"]


def _hold_forever(root: Path, ready: object) -> None:
    store = ContentStore(root)
    with store.lease("doomed") as lease, store.writer() as writer:
        lease.add(NAME)
        writer.write(DATA)
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_what_a_killed_process_held_is_free(store: ContentStore) -> None:
    """F-01, F-07."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold_forever, args=(store.root, ready))
    process.start()
    try:
        assert ready.wait(10)
        with store.leases.collecting() as held:
            assert held == {NAME}
        assert store.sweep() == []
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with store.leases.collecting() as held:
        assert held == set()
    assert len(store.sweep()) == 1
    assert partial_files(store) == []


def test_sweep_keeps_young_parts_and_removes_old_ones(store: ContentStore) -> None:
    with store.writer(NAME, resume_key="key") as writer:
        writer.write(b"part")
    assert store.sweep() == []
    assert len(store.sweep(partial_age_s=-1)) == 1


def test_odd_owner_names_make_no_paths(store: ContentStore) -> None:
    with store.lease("../../x/y\n"):
        assert len(os.listdir(store.root / "leases")) == 1
