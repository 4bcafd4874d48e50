"""An engine that only remembers, for tests of the workers alone. It keeps its state in the real database and journal, so it is the
same for every process of a node; `effects` counts what was really done.

What a call does is told by the name it is given: `sleep-20` takes twenty seconds, `fail` fails, `bug` raises what nobody expects.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

from engine.config import EngineConfig
from engine.containers.model import Container, ContainerSpec, Status, from_json, to_json
from engine.containers.timeline import last_record
from engine.db import Database, Schema
from engine.errors import ContainerNotFound, NotFound, Unavailable, WrongState
from engine.events import Event
from engine.progress import CancelToken, LayerProgress, Message, Reporter

SCHEMA = Schema(
    "fake",
    (
        "CREATE TABLE things (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT",
        "CREATE TABLE effects (number INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL) STRICT",
    ),
)


class FakeNetwork:
    """Rules that are never missing."""

    table_name = "no-such-table"

    def restore(self, *, neighbours: bool = True) -> list[str]:
        return []


class FakeEngine:
    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.db = Database(config.database, (SCHEMA,), wake=config.wake_socket)

    # seen by tests
    def effects(self) -> list[str]:
        return [row["what"] for row in self.db.read().execute("SELECT what FROM effects ORDER BY number")]

    # verbs
    def image_get(self, *, ref: str) -> Any:
        raise NotFound(f"no image {ref}")

    def pull(
        self, *, reference: str, report: Reporter, cancel: CancelToken, registries: Any, **_: Any
    ) -> Any:
        for part in range(3):
            report(LayerProgress("layer", "downloading", part, 3))
            report(Message(f"part {part} of {reference}"))
            self._take_time(reference, cancel)
        password = registries[0].credentials.password if registries else ""
        self._effect(
            f"pull {reference}{' as ' + password if password else ''}", Event("image", "pull", reference)
        )
        return {"id": "sha256:" + "1" * 64, "names": [reference]}

    def create(
        self,
        *,
        spec: ContainerSpec,
        id: str,
        pull: str,
        platform: str,
        registries: Sequence[Any],
        report: Reporter,
        cancel: CancelToken,
    ) -> Container:
        known = self._find(id)
        if known is not None:
            return known
        self._take_time(spec.image, cancel)
        made = Container(
            id, spec.name or id[:8], spec, "sha256:" + "1" * 64, spec.image, Status.CREATED, time.time()
        )
        return self._save(made, "create")

    def start(self, *, container: str) -> Container:
        found = self.container_get(ref=container)
        if not found.status.can_start():
            raise WrongState(f"container {found.name!r} is {found.status}")
        self._take_time(found.spec.image, CancelToken())
        started = from_json(Container, {**to_json(found), "status": "exited", "started_at": time.time()})
        saved = self._save(started, "start")
        if found.spec.image.startswith("late-"):  # dies between the effect and the outcome
            time.sleep(float(found.spec.image.removeprefix("late-")))
        return saved

    def remove(self, *, container: str, force: bool, volumes: bool, keep_log: bool = False) -> str:
        found = self.container_get(ref=container)
        with self.db.transaction() as connection:
            connection.execute("DELETE FROM things WHERE id = ?", (found.id,))
            connection.execute("INSERT INTO effects (what) VALUES (?)", (f"remove {found.name}",))
            self.db.append_event(connection, Event("container", "destroy", found.id, {"name": found.name}))
        if found.spec.image.startswith("late-"):
            time.sleep(float(found.spec.image.removeprefix("late-")))
        return found.id

    def last_record(self, *, container: str) -> Container | None:
        return last_record(self.db, container)

    def container_get(self, *, ref: str) -> Container:
        for row in self.db.read().execute("SELECT record FROM things"):
            found = _container(row["record"])
            if ref in (found.id, found.name):
                return found
        raise ContainerNotFound(
            f"no container {ref!r} on this node", hint="list containers to see their names"
        )

    def container_list(self) -> list[Container]:
        return [_container(row["record"]) for row in self.db.read().execute("SELECT record FROM things")]

    def info(self) -> dict[str, Any]:
        return {"node": self.config.node}

    @property
    def supervisor(self) -> FakeEngine:
        return self

    @property
    def network(self) -> FakeNetwork:
        return FakeNetwork()

    def run(self, stop: threading.Event) -> None:
        stop.wait()

    def reconcile(self) -> list[str]:
        return []

    def sweep(self) -> list[str]:
        return []

    # inside
    def _find(self, id: str) -> Container | None:
        row = self.db.read().execute("SELECT record FROM things WHERE id = ?", (id,)).fetchone()
        return _container(row["record"]) if row else None

    def _save(self, container: Container, action: str) -> Container:
        record = to_json(container)
        with self.db.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO things VALUES (?, ?)", (container.id, json.dumps(record))
            )
            connection.execute("INSERT INTO effects (what) VALUES (?)", (f"{action} {container.name}",))
            attributes = {"name": container.name, "record": record}
            self.db.append_event(connection, Event("container", action, container.id, attributes))
        return container

    def _effect(self, what: str, event: Event) -> None:
        with self.db.transaction() as connection:
            connection.execute("INSERT INTO effects (what) VALUES (?)", (what,))
            self.db.append_event(connection, event)

    def _take_time(self, name: str, cancel: CancelToken) -> None:
        if name.startswith("sleep-") and cancel.wait(float(name.removeprefix("sleep-"))):
            cancel.check()
        if name == "fail":
            raise Unavailable("the registry does not answer", hint="try again later")
        if name == "bug":
            raise ZeroDivisionError("nobody expected this")


def _container(text: str) -> Container:
    return from_json(Container, json.loads(text))
