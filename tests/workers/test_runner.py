"""One delivery of one operation, in this process: what is done, what is remembered, what is said."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.db import Database, Work, current_work
from engine.errors import NoSpace
from engine.events import Event
from tests.support.fake_engine import FakeEngine
from tests.support.worker import Node
from workers import broker, client
from workers.contracts import (
    ContainerCreate,
    ContainerRemove,
    ContainerStart,
    Contract,
    ImagePull,
    NodeKey,
    RegistryAccess,
    envelope,
    names,
)
from workers.keys import seal
from workers.ledger import SCHEMA, Claim, Fenced, Ledger, Verdict
from workers.tasks.keeper import Keeper
from workers.tasks.progress import ProgressWriter, log_path
from workers.tasks.runner import Runner

ID = "c" * 64


@dataclass
class Bench:
    """A runner on a fake engine, and what came out of it."""

    node: Node
    engine: FakeEngine
    runner: Runner

    def send(self, contract: Contract, operation: str = "", *, fence: int = 1, deadline_s: float = 60) -> str:
        operation = operation or names.new_id()
        self.runner.run(contract.KIND, self.envelope(contract, operation, fence=fence, deadline_s=deadline_s))
        return operation

    def envelope(self, contract: Contract, operation: str, *, fence: int = 1, deadline_s: float = 60) -> str:
        hidden = seal(self.node.key, envelope.split(contract)[1], operation)
        return envelope.write(
            self.node.key, contract, operation_id=operation, fence=fence, sealed=hidden, deadline_s=deadline_s
        )

    def events(self) -> list[Event]:
        return self.engine.db.events_after(0)

    def said(self, operation: str) -> list[str]:
        return [event.action for event in self.events() if event.subject == operation]

    def outcome(self, operation: str) -> dict[str, Any]:
        return self.runner.ledger.status_of([operation])[operation]


@pytest.fixture
def bench(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    config = EngineConfig(node.home / "engine", tmp_path / "run", "00000000", node=node.name)
    config.make_folders()
    engine = FakeEngine(config)
    ledger = Ledger(Database(config.database, (SCHEMA,)), config.run_root / "operations")
    connection = broker.connect(node.redis.url)
    keeper = Keeper(ledger, connection, node.key)
    yield Bench(
        node,
        engine,
        Runner(engine, node.home, node.key, ledger, keeper, ProgressWriter(connection, config.data_root)),
    )
    connection.close()


def create(**changes: Any) -> ContainerCreate:
    values = {"id": ID, "spec": {"image": "tiny", "name": "web"}, **changes}
    return ContainerCreate(**values)


def test_an_operation_is_done_and_its_outcome_follows_its_events(bench: Bench) -> None:
    operation = bench.send(create(start=True))
    assert bench.engine.effects() == ["create web", "start web"]
    assert [(event.type, event.action) for event in bench.events()] == [
        ("operation", "running"),
        ("container", "create"),
        ("container", "start"),
        ("operation", "succeeded"),
    ]
    assert bench.outcome(operation)["result"]["container"]["name"] == "web"


def test_events_name_the_operation_that_caused_them(bench: Bench) -> None:
    operation = bench.send(create())
    made = next(event for event in bench.events() if event.type == "container")
    assert made.attributes["operation"] == operation


@pytest.mark.parametrize(
    "contract",
    [create(start=True), ImagePull("tiny"), ContainerRemove("web"), ContainerStart("web")],
    ids=lambda c: c.KIND,
)
def test_the_same_delivery_twice_is_one_effect(bench: Bench, contract: Contract) -> None:
    """F-13, AP-14, H12: redelivery and replay are no-ops."""
    if contract.KIND != "container.create":
        bench.send(create())
    before = len(bench.engine.effects())
    operation = names.new_id()
    text = bench.envelope(contract, operation)
    bench.runner.run(contract.KIND, text)
    after = bench.engine.effects()
    assert len(after) > before
    bench.runner.run(contract.KIND, text)
    bench.runner.run(contract.KIND, text)
    assert bench.engine.effects() == after
    assert bench.said(operation) == ["running", "succeeded"]


def test_a_higher_fence_makes_the_node_say_the_outcome_again(bench: Bench) -> None:
    operation = bench.send(create())
    bench.send(create(), operation, fence=2)
    bench.send(create(), operation, fence=2)
    assert bench.said(operation) == ["running", "succeeded", "succeeded"]
    assert bench.events()[-1].attributes["fence"] == 2
    assert bench.engine.effects() == ["create web"]


def test_redelivery_while_it_runs_is_one_effect(bench: Bench) -> None:
    """F-13."""
    operation = names.new_id()
    text = bench.envelope(ImagePull("sleep-0.4"), operation)
    threads = [threading.Thread(target=bench.runner.run, args=("image.pull", text)) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert bench.engine.effects() == ["pull sleep-0.4"]
    assert bench.said(operation) == ["running", "succeeded"]


def test_a_forged_message_has_no_effect_and_no_outcome(bench: Bench) -> None:
    """AP-14: signed with another key, changed on the way, or for another kind or node."""
    good = bench.envelope(create(), names.new_id())
    stranger = NodeKey(bench.node.name, b"s" * 32)
    elsewhere = NodeKey("elsewhere", bench.node.key._secret)
    forged = [
        envelope.write(stranger, create(), operation_id=names.new_id()),
        envelope.write(elsewhere, create(), operation_id=names.new_id()),
        good.replace("web", "wed"),
        good[1:],
        "{}",
        "",
    ]
    for text in forged:
        bench.runner.run("container.create", text)
    bench.runner.run("container.remove", good)
    assert bench.engine.effects() == []
    assert bench.events() == []


def test_a_malformed_payload_fails_with_the_field(bench: Bench) -> None:
    key, operation = bench.node.key, names.new_id()
    body = key.unwrap("task", bench.envelope(create(), operation)).replace('"start":false', '"start":"yes"')
    bench.runner.run("container.create", key.wrap("task", body))
    assert bench.outcome(operation)["error"]["detail"] == "start must be bool"
    assert bench.engine.effects() == []


def test_a_right_that_was_not_granted_is_refused_on_the_node_too(bench: Bench) -> None:
    """D3, AP-14: the node judges the spec again."""
    spec = {"image": "tiny", "mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}
    operation = bench.send(create(spec=spec))
    assert bench.outcome(operation)["status"] == "failed"
    assert bench.outcome(operation)["error"]["code"] == "denied"
    assert bench.engine.effects() == []
    granted = bench.send(create(spec=spec, rights=["host_mounts"]))
    assert bench.outcome(granted)["status"] == "succeeded"


def test_mounts_of_the_host_cannot_be_borrowed_without_the_right(bench: Bench) -> None:
    """AP-03: the same power by another door (`volumes_from`, `container:` namespaces)."""
    bench.send(create(spec={"image": "tiny", "name": "web", "pid_mode": "host"}, rights=["host_namespaces"]))
    operation = bench.send(
        create(id="d" * 64, spec={"image": "tiny", "name": "two", "pid_mode": "container:web"})
    )
    assert bench.outcome(operation)["error"]["context"]["right"] == "host_namespaces"


def test_failure_carries_code_and_hint(bench: Bench) -> None:
    operation = bench.send(ImagePull("fail"))
    error = bench.outcome(operation)["error"]
    assert (error["code"], error["hint"], error["retryable"]) == ("unavailable", "try again later", True)


def test_a_bug_is_an_outcome_and_a_traceback_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    operation = bench.send(ImagePull("bug"))
    assert bench.outcome(operation)["error"]["code"] == "internal_error"
    assert "ZeroDivisionError" in caplog.text


def test_cancelling_stops_work_within_a_second(bench: Bench) -> None:
    """F-36."""
    operation = names.new_id()
    thread = threading.Thread(target=bench.send, args=(ImagePull("sleep-30"), operation))
    thread.start()
    time.sleep(0.2)
    client.cancel(bench.node.name, operation)
    began = time.monotonic()
    thread.join()
    assert time.monotonic() - began < 1
    assert bench.said(operation) == ["running", "cancelled"]


def test_cancelling_before_it_begins_prevents_it(bench: Bench) -> None:
    operation = names.new_id()
    client.cancel(bench.node.name, operation)
    bench.send(ImagePull("tiny"), operation)
    assert bench.said(operation) == ["running", "cancelled"]
    assert bench.engine.effects() == []


def test_a_forged_cancellation_is_ignored(bench: Bench) -> None:
    """AP-14."""
    operation = names.new_id()
    bench.node.redis.client().set(names.cancel_key(operation), "0" * 64)
    bench.send(ImagePull("tiny"), operation)
    assert bench.said(operation) == ["running", "succeeded"]


def test_work_past_its_deadline_fails(bench: Bench) -> None:
    operation = bench.send(ImagePull("sleep-30"), deadline_s=0.5)
    assert bench.outcome(operation)["error"]["code"] == "deadline_exceeded"


def test_secrets_arrive_and_stand_nowhere(bench: Bench) -> None:
    """BU-10, AP-13: not in the message, the database, the journal or the log."""
    contract = ImagePull("tiny", registries=[RegistryAccess("r", username="u", password="hunter2-secret")])
    operation = names.new_id()
    text = bench.envelope(contract, operation)
    bench.runner.run(contract.KIND, text)
    assert bench.engine.effects() == ["pull tiny as hunter2-secret"]
    with bench.engine.db.transaction() as connection:
        connection.execute("DELETE FROM effects")
    connection.execute("VACUUM")
    for path in (bench.node.home / "engine").rglob("*"):
        assert not path.is_file() or b"hunter2-secret" not in path.read_bytes() or path.name.endswith("-wal")
    assert "hunter2-secret" not in text
    assert "hunter2-secret" not in str(bench.events())


def test_what_it_says_is_kept_and_streamed(bench: Bench) -> None:
    operation = bench.send(ImagePull("tiny"))
    lines = log_path(bench.engine.config.data_root, operation).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    texts = [entry["text"] for entry in entries if entry["type"] == "message"]
    assert texts == ["part 0 of tiny", "part 1 of tiny", "part 2 of tiny"]
    assert (entries[-1]["type"], entries[-1]["status"]) == ("end", "succeeded")
    streamed: list[dict[str, Any]] = []
    for _, fields in bench.node.redis.client().xrange(names.progress_key(operation)):
        assert int(fields[b"i"]) == len(streamed)
        streamed += json.loads(fields[b"p"])
    assert streamed == entries


def interrupted(bench: Bench, contract: Contract, operation: str) -> Claim:
    """Claim an operation and lose the process: the lock is let go, nothing is written."""
    text = bench.envelope(contract, operation)
    claim = bench.runner.ledger.claim(envelope.read(bench.node.key, text), text)
    assert isinstance(claim, Claim)
    claim.release()
    return claim


def test_an_interrupted_operation_is_done_by_the_next(bench: Bench) -> None:
    """F-16, H12: interrupted, then again."""
    operation = names.new_id()
    interrupted(bench, create(), operation)
    assert [found.id for found in bench.runner.ledger.abandoned()] == [operation]
    bench.send(create(), operation)
    assert bench.said(operation) == ["running", "running", "succeeded"]
    assert bench.outcome(operation)["attempt"] == 2
    assert bench.runner.ledger.abandoned() == []


def test_a_start_that_was_done_before_the_worker_died_is_not_done_twice(bench: Bench) -> None:
    """F-13, F-16: the event that the first attempt wrote proves it."""
    bench.send(create())
    operation = names.new_id()
    claim = interrupted(bench, ContainerStart("web"), operation)
    token = current_work.set(Work(operation, lambda connection: bench.runner.ledger.check(claim, connection)))
    bench.engine.start(container="web")
    current_work.reset(token)
    bench.send(ContainerStart("web"), operation)
    assert bench.engine.effects() == ["create web", "start web"]
    assert bench.outcome(operation)["result"]["container"]["status"] == "exited"


def test_a_removal_that_was_done_before_the_worker_died_succeeds(bench: Bench) -> None:
    """F-05."""
    bench.send(create())
    operation = names.new_id()
    interrupted(bench, ContainerRemove("web"), operation)
    bench.engine.remove(container="web", force=False, volumes=False)
    bench.send(ContainerRemove("web"), operation)
    assert bench.outcome(operation)["status"] == "succeeded"


def test_what_is_interrupted_too_often_fails(bench: Bench) -> None:
    """F-16: every accepted job ends in a final state."""
    operation = names.new_id()
    for _ in range(3):
        interrupted(bench, create(), operation)
    bench.send(create(), operation)
    assert bench.outcome(operation)["error"]["code"] == "interrupted"
    assert bench.engine.effects() == []


def test_a_late_writer_is_refused(bench: Bench) -> None:
    """F-14: whoever lost the claim writes neither an outcome nor anything in the engine's database."""
    operation = names.new_id()
    stale = interrupted(bench, create(), operation)
    bench.send(create(), operation)
    before = bench.events()
    assert bench.runner.ledger.finish(stale, "failed") is False
    token = current_work.set(Work(operation, lambda connection: bench.runner.ledger.check(stale, connection)))
    with pytest.raises(Fenced):
        bench.engine.remove(container="web", force=False, volumes=False)
    current_work.reset(token)
    assert bench.events() == before
    assert bench.engine.container_get(ref="web").id == ID


def test_an_older_sending_is_stale(bench: Bench) -> None:
    operation = names.new_id()
    interrupted(bench, create(), operation)
    bench.send(create(), operation, fence=3)
    text = bench.envelope(create(), operation, fence=2)
    assert bench.runner.ledger.claim(envelope.read(bench.node.key, text), text) is Verdict.STALE


def test_a_full_disk_at_the_claim_leaves_no_lock_held(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = names.new_id()
    text = bench.envelope(create(), operation)
    original = bench.runner.ledger._append

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(bench.runner.ledger, "_append", fail)
    with pytest.raises(NoSpace):
        bench.runner.ledger.claim(envelope.read(bench.node.key, text), text)
    monkeypatch.setattr(bench.runner.ledger, "_append", original)
    bench.runner.run("container.create", text)
    assert bench.said(operation) == ["running", "succeeded"]
