"""F-03: a commit that is killed at whatever point leaves its source container running, and the next commit works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.containers.model import Status
from engine.linux.process import wait_until
from tests.support.containers import Node, container_node
from tests.support.crashing import crash
from workers.agent.agent import RECONCILE_EVERY_S

pytestmark = pytest.mark.root

POINTS = (
    "engine.linux.cgroup:Cgroups.freeze",
    "engine.layers.pack:PendingBlob.feed",
    "engine.containers.commit:Committer._write",
    "engine.content.store:BlobWriter.commit",
    "engine.images.store:ImageStore.add",
)
BACK_S = 5.0


def test_the_agent_looks_often_enough() -> None:
    assert RECONCILE_EVERY_S < BACK_S


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with container_node() as made:
        yield made


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_commit_killed_at_any_point_lets_its_container_go_on(node: Node, point: str, when: str) -> None:
    containers = node.containers
    container = node.run("sh", "-c", "echo kept > /kept; i=0; while :; do echo $((i += 1)); sleep 0.05; done")
    assert wait_until(lambda: node.log(container.id), 5, 0.01)
    crash(node, point, "committer.commit", container.id, "half:1", before=when == "before")
    containers.reconcile()  # which the agent does every few seconds
    assert not containers.parts.cgroups.is_frozen(containers.parts.group_of(container.id))
    assert containers.get(container.id).status is Status.RUNNING
    written = len(node.log(container.id))
    assert wait_until(lambda: len(node.log(container.id)) > written, BACK_S, 0.01)
    image = containers.committer.commit(container.id, "whole:1")
    assert all(node.content.verify(layer.descriptor.digest) for layer in image.layers)
    assert (node.images.find("half:1") is not None) == (point.endswith("ImageStore.add") and when == "after")
    for name in ("half:1", "whole:1"):
        if node.images.find(name):
            node.images.remove(name, force=True)
    containers.remove(container.id, force=True)
