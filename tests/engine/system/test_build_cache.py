"""The build cache on real layers: what hits, what misses and why, what is kept and what goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import CommandFailed
from tests.support.building import BuildNode, build_node, open_node

pytestmark = pytest.mark.root
BASE = "FROM busybox:test\n"


@pytest.fixture(scope="module")
def node() -> Iterator[BuildNode]:
    with build_node() as made:
        yield made


def _statuses(node: BuildNode, dockerfile: str, **request: object) -> list[str]:
    return [step.status for step in node.build(dockerfile, **request).steps]  # type: ignore[arg-type]


def test_an_unchanged_build_is_all_cached_and_gives_the_same_image(node: BuildNode) -> None:
    text = BASE + "WORKDIR /w\nCOPY a .\nRUN echo x > b\nLABEL l=m\n"
    first = node.build(text, files={"a": "1"})
    second = node.build(text, files={"a": "1"})
    assert second.image_id == first.image_id
    assert [step.status for step in second.steps] == ["cached", "cached", "cached", "done"]


def test_a_changed_instruction_builds_again_from_there_on(node: BuildNode) -> None:
    text = BASE + "RUN echo 1 > /s1\nRUN echo {} > /s2\nRUN echo 3 > /s3\n"
    node.build(text.format(2), tags=["series:1"])
    assert _statuses(node, text.format("two"), tags=["series:1"]) == ["cached", "done", "done"]
    assert node.told.reason("0.2") == "the instruction changed, it was: RUN echo 2 > /s2"
    assert node.told.reason("0.3") == "the step before it changed"


def test_the_reason_names_the_files_that_changed(node: BuildNode) -> None:
    text = BASE + "COPY src /src\n"
    node.build(text, files={"src/a": "1", "src/b": "2", "src/c": "3"})
    node.build(text, files={"src/a": "other", "src/b": "2", "src/d": "3"})
    assert node.told.reason("0.1") == "changed: src/a; added: src/d; removed: src/c"


def test_the_reason_names_the_argument_and_the_variable(node: BuildNode) -> None:
    text = BASE + "ARG V\nENV E={}\nRUN echo $V $E > /v\n"
    node.build(text.format("e"), build_args={"V": "1"})
    node.build(text.format("e"), build_args={"V": "2"})
    assert node.told.reason("0.3") == "ARG V changed"
    node.build(text.format("f"), build_args={"V": "2"})
    assert node.told.reason("0.3") == "ENV E changed"


def test_an_argument_counts_only_where_it_is_seen(node: BuildNode) -> None:
    text = BASE + "RUN echo before > /x\nARG LATE\nRUN echo $LATE > /y\n"
    node.build(text, build_args={"LATE": "1"})
    assert _statuses(node, text, build_args={"LATE": "2"}) == ["cached", "done", "done"]


def test_times_do_not_count_and_everything_else_does(node: BuildNode, tmp_path: Path) -> None:
    """BU-11: same size and time but other bytes, mode or link is a miss."""
    file = tmp_path / "f"
    text = BASE + "COPY . /counted/\n"

    def status() -> str:
        if not file.is_symlink():
            os.utime(file, ns=(1, 1))
        return node.build(text, context=tmp_path).steps[0].status

    file.write_text("aaa")
    assert status() == "done"
    os.utime(file, ns=(5, 5))
    assert node.build(text, context=tmp_path).steps[0].status == "cached"
    for change in (
        lambda: file.write_text("bbb"),
        lambda: file.chmod(0o600),
        lambda: os.setxattr(file, "user.a", b"1"),
        lambda: (file.unlink(), file.symlink_to("x")),
        lambda: (file.unlink(), file.symlink_to("y")),
    ):
        change()
        assert status() == "done"


def test_a_stage_that_gives_the_same_files_is_a_hit_behind_it(node: BuildNode) -> None:
    text = "FROM busybox:test AS one\nRUN echo {} > /tmp/x; echo same > /out; touch -d @5 /out\nFROM scratch\nCOPY --from=one /out /out\n"
    first = node.build(text.format(1))
    second = node.build(text.format(2))
    assert second.steps[-1].status == "cached"
    assert second.image_id == first.image_id


def test_builds_after_a_failure_begin_where_it_stopped(node: BuildNode) -> None:
    with pytest.raises(CommandFailed):
        node.build(BASE + "RUN echo slow > /done-before\nRUN exit 1\n")
    assert _statuses(node, BASE + "RUN echo slow > /done-before\nRUN exit 0\n") == ["cached", "done"]


def test_the_cache_survives_a_restart(node: BuildNode) -> None:
    text = BASE + "RUN echo restart > /r\n"
    node.build(text)
    again = open_node(node.config)
    assert [step.status for step in again.build(text).steps] == ["cached"]


def test_no_cache_builds_again_all_or_one_stage(node: BuildNode) -> None:
    text = "FROM busybox:test AS one\nRUN echo 1 > /n1\nFROM busybox:test AS two\nRUN echo 2 > /n2\nFROM scratch\nCOPY --from=one /n1 /\nCOPY --from=two /n2 /\n"
    node.build(text)
    assert _statuses(node, text, no_cache=True) == ["done"] * 4
    statuses = {step.stage: step.status for step in node.build(text, no_cache_filter=["TWO"]).steps}
    assert (statuses["one"], statuses["two"]) == ("cached", "done")


def test_cache_from_takes_layers_of_an_image(node: BuildNode) -> None:
    text = BASE + "RUN echo from > /cf\nRUN true\nCOPY a /a\n"
    built = node.build(text, files={"a": "1"}, tags=["keep:1"])
    node.builder.cache.prune()
    assert _statuses(node, text, files={"a": "1"}, cache_from=["keep:1", "gone:1"]) == ["cached"] * 3
    assert any("no cache from gone:1" in line for line in node.told.lines())
    assert node.build(text, files={"a": "1"}, cache_from=["keep:1"]).image_id == built.image_id


def test_pruned_layers_are_made_again(node: BuildNode) -> None:
    text = BASE + "RUN echo pruned > /p\n"
    first = node.build(text)
    node.images.remove(first.image_id, force=True)
    chain = next(record.chain for record in node.builder.cache.records() if "pruned" in record.text)
    assert node.snapshots.exists(chain)  # type: ignore[arg-type]
    node.builder.cache.prune()
    node.images.collect(min_age_s=0)
    assert not node.snapshots.exists(chain)  # type: ignore[arg-type]
    assert _statuses(node, text) == ["done"]


def test_the_cache_keeps_its_layers_from_the_collector(node: BuildNode) -> None:
    text = BASE + "RUN echo kept > /k\n"
    result = node.build(text)
    node.images.remove(result.image_id, force=True)
    node.images.collect(min_age_s=0)
    assert _statuses(node, text) == ["cached"]


def test_the_cache_is_bounded_by_least_recent_use(node: BuildNode) -> None:
    for number in range(4):
        node.build(BASE + f"RUN echo bounded {number} > /b\n")
    node.build(BASE + "RUN echo bounded 0 > /b\n")
    cache = node.builder.cache
    cache._max_records = 2
    try:
        cache.trim()
    finally:
        cache._max_records = 10_000
    assert [record.text for record in cache.records()] == [
        "RUN echo bounded 0 > /b",
        "RUN echo bounded 3 > /b",
    ]
    assert cache.records()[0].uses == 2


def test_prune_keeps_what_it_is_told_to_keep(node: BuildNode) -> None:
    cache = node.builder.cache
    cache.prune()
    for number in range(3):
        node.build(BASE + f"RUN head -c 100000 /dev/zero > /z{number}\n")
    gone = cache.prune(keep_bytes=150_000)
    assert len(gone) == 2
    assert [record.text for record in cache.records()] == ["RUN head -c 100000 /dev/zero > /z2"]
    assert cache.prune(older_than_s=3600) == []


def test_cache_mounts_are_shown_and_pruned(node: BuildNode) -> None:
    node.build(BASE + "RUN --mount=type=cache,id=shown,target=/c head -c 5000 /dev/zero > /c/z\n")
    mounts = node.builder.cache_mounts
    info = next(info for info in mounts.list() if info.id == "shown")
    assert info.size >= 5000
    assert not info.in_use
    assert mounts.prune() >= 5000
    assert mounts.list() == []
