"""The relay: what a node tells becomes the record, once, in order, whatever is lost on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.utils import timezone

from tests.support.redis import RedisServer, private_redis
from tests.support.web import (
    FakeNode,
    actor_of,
    container_record,
    image_record,
    network_record,
    volume_record,
)
from webapp.accounts.models import User
from webapp.builds.services import BuildWish, build_create
from webapp.containers.models import Container, ContainerNetwork, ContainerVolume
from webapp.core.times import from_ns
from webapp.images.models import Image, ImageName
from webapp.images.selectors import image_get
from webapp.images.services import image_pull
from webapp.networks.models import Network
from webapp.nodes.models import Event, Node
from webapp.nodes.system import check
from webapp.realtime import relay as relays
from webapp.realtime.apply import Gap, apply_batch, confirm
from webapp.realtime.relay import Relay
from webapp.volumes.models import Volume
from webapp.volumes.services import volume_create
from workers import client
from workers.contracts import names
from workers.contracts.events import Heartbeat, NodeEvent, write_event
from workers.contracts.signing import NodeKey
from workers.contracts.values import to_json

pytestmark = pytest.mark.django_db(transaction=True)

KEY = NodeKey("local", b"k" * 32)


# --- applying -----------------------------------------------------------------------------------------------------


def test_a_container_event_becomes_the_record(voice: FakeNode) -> None:
    voice.container(container_record())
    container = Container.objects.get()
    assert (container.name, container.status, container.exit_code) == ("web", "running", None)
    assert container.summary["ports"][0]["host_port"] == 8080
    assert container.summary["labels"] == {"maker": "us"}
    assert list(container.memberships.values_list("network", flat=True)) == ["bridge"]
    assert list(container.volume_uses.values_list("volume", "target")) == [("data", "/data")]


def test_an_exit_is_told(voice: FakeNode) -> None:
    voice.container(container_record())
    voice.container(
        container_record(
            status="exited", exit_code=42, finished_at=1_700_000_100.0, endpoints=[], generation=2
        ),
        "die",
    )
    container = Container.objects.get()
    assert (container.status, container.exit_code) == ("exited", 42)
    assert container.finished_at is not None
    assert not ContainerNetwork.objects.exists()


def test_a_removed_container_is_gone(voice: FakeNode) -> None:
    voice.container(container_record())
    voice.say("container", "destroy", "c" * 64, name="web")
    assert not Container.objects.exists()
    assert not ContainerVolume.objects.exists()


def test_the_same_events_again_change_nothing(voice: FakeNode) -> None:
    """At least once: (node, epoch, seq) is applied once."""
    events = [voice.event("container", "start", "c" * 64, name="web", record=container_record())]
    assert apply_batch("local", events) == 1
    Container.objects.update(status="paused")
    assert apply_batch("local", events) == 0
    assert Container.objects.get().status == "paused"
    assert Event.objects.count() == 1


def test_an_older_generation_does_not_win(voice: FakeNode) -> None:
    voice.container(container_record(generation=5, status="exited"))
    voice.container(container_record(generation=4, status="running"))
    assert Container.objects.get().status == "exited"


def test_of_several_records_in_a_batch_the_newest_counts_and_all_are_told(voice: FakeNode) -> None:
    ended = container_record(status="exited", exit_code=3, finished_at=1_700_000_100.0, generation=3)
    events = [
        voice.event("container", action, "c" * 64, name="web", record=record)
        for action, record in (
            ("create", container_record(status="created", generation=1)),
            ("start", container_record(generation=2, name="never-seen")),
            ("die", ended),
        )
    ]
    apply_batch(voice.node.name, events)
    container = Container.objects.get()
    assert (container.name, container.status, container.exit_code) == ("web", "exited", 3)
    assert list(Event.objects.order_by("seq").values_list("action", flat=True)) == ["create", "start", "die"]


def test_an_operation_that_begins_and_ends_in_a_batch_keeps_both_times(voice: FakeNode, bob: User) -> None:
    operation = volume_create(actor_of(bob), name="data")
    events = [
        voice.event("operation", status, operation.id, status=status, kind=operation.kind, fence=1)
        for status in ("running", "succeeded")
    ]
    apply_batch(voice.node.name, events)
    operation.refresh_from_db()
    assert operation.status == "succeeded"
    assert operation.started_at == from_ns(events[0].time_ns)
    assert operation.finished_at == from_ns(events[1].time_ns)


def test_a_record_before_a_removal_in_a_batch_leaves_nothing(voice: FakeNode) -> None:
    voice.container(container_record())
    ended = voice.event("container", "die", "c" * 64, name="web", record=container_record(generation=2))
    gone = voice.event("container", "destroy", "c" * 64, name="web")
    apply_batch(voice.node.name, [ended, gone])
    assert not Container.objects.exists()


def test_a_hole_is_noticed_and_nothing_applied(voice: FakeNode) -> None:
    first, _, third = (
        voice.event("container", "start", "c" * 64, name="web", record=container_record()) for _ in range(3)
    )
    apply_batch("local", [first])
    with pytest.raises(Gap) as gap:
        apply_batch("local", [third])
    assert gap.value.after == 1
    assert Node.objects.get().seq == 1


def test_nonsense_is_passed_over_and_does_not_stop_what_follows(voice: FakeNode) -> None:
    bad = voice.event("container", "start", "x", record={"nonsense": True})
    good = voice.event("container", "start", "c" * 64, name="web", record=container_record())
    assert apply_batch("local", [bad, good]) == 2
    assert Container.objects.get().name == "web"


def test_image_names_move(voice: FakeNode) -> None:
    voice.say("image", "pull", "a", record=image_record())
    newer = "sha256:" + "b" * 64
    voice.say("image", "tag", "b", record=image_record(id=newer))
    assert image_get("nginx").image_id == newer
    assert Image.objects.get(image_id="sha256:" + "a" * 64).names == []
    assert ImageName.objects.count() == 1


def test_networks_and_volumes_are_kept(voice: FakeNode) -> None:
    voice.say("network", "create", "n" * 64, record=network_record())
    voice.say("volume", "create", "data", record=volume_record())
    assert (Network.objects.get().subnet, Volume.objects.get().name) == ("10.201.0.0/24", "data")
    voice.say("network", "destroy", "n" * 64)
    voice.say("volume", "destroy", "data")
    assert not Network.objects.exists()
    assert not Volume.objects.exists()


def test_confirming_forgets_what_the_node_does_not_have(voice: FakeNode) -> None:
    """Invariant (d): records equal the node."""
    voice.container(container_record(id="1" * 64, name="one"))
    voice.container(container_record(id="2" * 64, name="two"))
    confirm(
        "local",
        "container",
        [container_record(id="2" * 64, name="two", status="exited", generation=2)],
        timezone.now(),
    )
    assert list(Container.objects.values_list("name", "status")) == [("two", "exited")]


def test_confirming_spares_what_is_being_made(node: Node) -> None:
    Container.objects.create(id="9" * 64, node=node, name="coming", status="creating")
    confirm("local", "container", [], timezone.now())
    assert Container.objects.filter(name="coming").exists()


# --- through Redis ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with private_redis() as running:
        connection = running.client()
        monkeypatch.setattr(client, "connection", lambda: connection)
        monkeypatch.setattr(client, "node_key", lambda node: KEY)
        yield running
        connection.close()


class Agent:
    """The node's side of Redis: a journal, its stream, and answers to questions."""

    def __init__(self, server: redis.Redis, voice: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.redis = server
        self.voice = voice
        self.journal: list[NodeEvent] = []
        self.records: dict[str, list[dict[str, Any]]] = {
            "container": [],
            "image": [],
            "network": [],
            "volume": [],
        }
        self.asked: list[str] = []
        monkeypatch.setattr(relays.client, "query", self.answer)
        monkeypatch.setattr(relays.client, "heartbeat", lambda node: self.beat())

    def happens(self, type: str, action: str, subject: str, *, told: bool = True, **attributes: Any) -> None:
        event = self.voice.event(type, action, subject, **attributes)
        self.journal.append(event)
        if told:
            self.redis.xadd(names.events_key("local"), {"e": write_event(KEY, event)}, id=f"{event.seq}-0")

    def beat(self) -> Heartbeat:
        return Heartbeat(
            node="local", boot="b1", epoch=self.voice.epoch, last_seq=self.voice.seq, at=time.time()
        )

    def answer(self, node: str, kind: str, params: Any = None, **rest: Any) -> Any:
        self.asked.append(kind)
        if kind == "events.after":
            later = [event for event in self.journal if event.seq > params["seq"]][: params["limit"]]
            return {
                "epoch": self.voice.epoch,
                "last_seq": self.voice.seq,
                "events": [to_json(event) for event in later],
            }
        return {"records": self.records[params["type"]]} if kind == "records.list" else {"runtime": "crun"}


@pytest.fixture
def agent(server: RedisServer, voice: FakeNode, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(client.connection(), voice, monkeypatch)


def test_events_come_through_the_stream(agent: Agent) -> None:
    agent.happens("container", "start", "c" * 64, name="web", record=container_record())
    agent.records["container"] = [container_record()]
    Relay(client.connection).step(block_ms=10)
    assert Container.objects.get().status == "running"
    assert Node.objects.get().info["runtime"] == "crun"
    assert Node.objects.get().is_online


def test_a_restarted_relay_goes_on_where_it_was(agent: Agent) -> None:
    agent.records["container"] = [container_record()]
    agent.happens("container", "start", "c" * 64, name="web", record=container_record())
    Relay(client.connection).step(block_ms=10)
    agent.happens(
        "container", "pause", "c" * 64, name="web", record=container_record(status="paused", generation=2)
    )
    agent.records["container"] = [container_record(status="paused", generation=2)]
    Relay(client.connection).step(block_ms=10)
    assert Container.objects.get().status == "paused"
    assert Event.objects.count() == 2


def test_an_emptied_redis_loses_nothing(agent: Agent) -> None:
    """F-11: FLUSHALL; the node is asked for what the stream no longer has."""
    relay = Relay(client.connection)
    agent.records["container"] = [container_record(status="exited", generation=3)]
    agent.happens("container", "start", "c" * 64, name="web", record=container_record())
    relay.step(block_ms=10)
    agent.happens(
        "container",
        "die",
        "c" * 64,
        told=False,
        name="web",
        record=container_record(status="exited", generation=3),
    )
    agent.redis.flushall()
    relay._next_tick = 0.0
    relay.step(block_ms=10)
    assert Container.objects.get().status == "exited"
    assert "events.after" in agent.asked
    assert Node.objects.get().seq == 2


def test_a_hole_in_the_stream_is_filled(agent: Agent) -> None:
    agent.records["container"] = [container_record(status="paused", generation=2)]
    agent.happens(
        "container", "create", "c" * 64, told=False, name="web", record=container_record(status="created")
    )
    agent.happens(
        "container", "pause", "c" * 64, name="web", record=container_record(status="paused", generation=2)
    )
    Relay(client.connection).step(block_ms=10)
    assert Event.objects.count() == 2
    assert Container.objects.get().status == "paused"


def test_a_new_journal_means_compare_everything(agent: Agent, voice: FakeNode) -> None:
    relay = Relay(client.connection)
    agent.records["container"] = [container_record()]
    agent.happens("container", "start", "c" * 64, name="web", record=container_record())
    relay.step(block_ms=10)
    voice.epoch, voice.seq = "e2", 0
    agent.journal.clear()
    agent.redis.delete(names.events_key("local"))
    agent.records["container"] = []
    agent.happens("image", "pull", "a", record=image_record())
    agent.records["image"] = [image_record()]
    relay._next_tick = 0.0
    relay.step(block_ms=10)
    assert not Container.objects.exists()
    assert Image.objects.count() == 1
    node = Node.objects.get()
    assert (node.epoch, node.seq) == ("e2", 1)


def test_a_forged_event_is_dropped(agent: Agent, bob: User) -> None:
    """AP-14: Redis is no trust boundary."""
    operation = check(actor_of(bob))
    false_key = NodeKey("local", b"x" * 32)
    event = NodeEvent(
        "local",
        "e1",
        1,
        time.time_ns(),
        "operation",
        "succeeded",
        operation.id,
        {"status": "succeeded", "kind": "x", "fence": 1},
    )
    agent.redis.xadd(names.events_key("local"), {"e": write_event(false_key, event)}, id="1-0")
    Relay(client.connection).step(block_ms=10)
    operation.refresh_from_db()
    assert operation.status == "queued"


def test_a_dead_redis_is_survived(server: RedisServer, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(client.connection)
    server.kill()
    monkeypatch.setattr(relays, "PAUSE_S", 0)
    steps = iter(range(2))

    def step(block_ms: int = 0) -> None:
        if next(steps, None) is None:
            relay.stopping = True
            return
        Relay.step(relay, block_ms=10)

    monkeypatch.setattr(relay, "step", step)
    relay.run()
    assert relay.stopping


# --- how far work is ----------------------------------------------------------------------------------------------


def tell(agent: Agent, operation: str, *entries: dict[str, Any]) -> None:
    agent.redis.xadd(names.progress_key(operation), {"i": 0, "p": json.dumps(entries)})


def test_progress_is_kept_with_the_operation(agent: Agent, voice: FakeNode, bob: User) -> None:
    relay = Relay(client.connection)
    operation = image_pull(actor_of(bob), "nginx")
    voice.say("operation", "running", operation.id, status="running", kind="image.pull", fence=1)
    tell(agent, operation.id, {"type": "message", "text": "pulling\n", "stream": "note"})
    tell(
        agent,
        operation.id,
        {"type": "layerprogress", "id": "l1", "status": "downloading", "current": 5, "total": 10},
    )
    relay.step(block_ms=10)
    operation.refresh_from_db()
    assert operation.progress["message"] == "pulling"
    assert operation.progress["layers"]["l1"] == {
        "id": "l1",
        "status": "downloading",
        "current": 5,
        "total": 10,
    }


def test_a_builds_plan_is_kept_after_its_end(agent: Agent, voice: FakeNode, bob: User) -> None:
    relay = Relay(client.connection)
    build, operation = build_create(actor_of(bob), BuildWish(dockerfile="FROM scratch"))
    voice.say("operation", "running", operation.id, status="running", kind="build.run", fence=1)
    tell(
        agent,
        operation.id,
        {"type": "plan", "stages": [{"index": 0, "steps": [{"id": "0.0"}, {"id": "0.1"}]}]},
        {"type": "stepprogress", "id": "0.0", "status": "done", "name": "FROM"},
        {"type": "stepprogress", "id": "0.1", "status": "running", "name": "RUN x"},
    )
    relay.step(block_ms=10)
    build.refresh_from_db()
    assert [step["status"] for step in build.steps] == ["done", "running"]
    operation.refresh_from_db()
    assert (
        operation.progress["steps_total"],
        operation.progress["steps_done"],
        operation.progress["step"],
    ) == (2, 1, "RUN x")
    voice.end(operation.id, result={"image_id": "sha256:x", "steps": [{"id": "0.0"}], "advice": []})
    build.refresh_from_db()
    assert build.plan[0]["index"] == 0
    assert build.steps == [{"id": "0.0"}]


def test_a_quick_build_has_its_plan_too(agent: Agent, bob: User) -> None:
    build, operation = build_create(actor_of(bob), BuildWish(dockerfile="FROM scratch"))
    tell(agent, operation.id, {"type": "plan", "stages": [{"index": 0, "steps": [{"id": "0.0"}]}]})
    result = {"image_id": "sha256:x", "steps": [{"id": "0.0", "status": "cached"}], "advice": []}
    agent.happens(
        "operation", "succeeded", operation.id, status="succeeded", kind="build.run", fence=1, result=result
    )
    Relay(client.connection).step(block_ms=10)
    build.refresh_from_db()
    assert build.operation.status == "succeeded"
    assert (len(build.plan), build.steps[0]["status"]) == (1, "cached")


def test_who_made_it_is_known(voice: FakeNode, bob: User) -> None:
    operation = volume_create(actor_of(bob), name="data")
    voice.say("volume", "create", "data", record=volume_record(), operation=operation.id)
    assert Volume.objects.get().created_by == bob
