"""The relay: reads the event streams of all nodes, applies them, and keeps the clock for what is due.

It may die and start again at any time: the position of each node is in the database, written with what it applied. Redis may
be emptied: what the stream no longer has is asked of the node.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import redis
from django.db import DatabaseError, close_old_connections
from django.utils import timezone

from webapp.nodes.models import Node
from webapp.operations.reaper import Reaper
from webapp.realtime.apply import APPLY, Gap, apply_batch, confirm
from webapp.realtime.progress import ProgressFeed
from webapp.realtime.wake import EVENTS, Note, publish
from workers import client
from workers.contracts import names
from workers.contracts.events import FINAL, OPERATION, Heartbeat, NodeEvent, read_event
from workers.contracts.problems import NodeError
from workers.contracts.values import ContractError, from_json

logger = logging.getLogger(__name__)

BATCH = 500
BLOCK_MS = 1000
GATHER_S = 0.008  # what nobody waits for may be followed by more, which then is one transaction with it
TICK_S = 2.0
CONFIRM_EVERY_S = 300.0
PAUSE_S = 0.5
WORTH_REPLAYING = 5000  # a longer past of a node that is new to us is not told again


class Relay:
    """One thread does it all: streams are read together, so no node waits for another's silence."""

    def __init__(self, connection: Callable[[], redis.Redis] = client.connection) -> None:
        self._connection = connection
        self._positions: dict[str, str] = {}
        self._confirmed: dict[str, float] = {}
        self._boots: dict[str, str] = {}
        self._online: dict[str, bool] = {}
        self._next_tick = 0.0
        self._reaper = Reaper()
        self._progress = ProgressFeed()
        self.stopping = False

    def run(self) -> None:
        """Work until `stopping` is set."""
        while not self.stopping:
            try:
                self.step()
            except (redis.RedisError, client.BrokerDown, OSError) as error:
                logger.warning("Redis does not answer: %s", error)
                time.sleep(PAUSE_S)
            except DatabaseError:
                logger.exception("the database does not take events; they wait")
                close_old_connections()
                time.sleep(PAUSE_S)

    def step(self, block_ms: int = BLOCK_MS) -> None:
        """Read and apply what has come, then do what is due."""
        nodes = list(Node.objects.values_list("name", flat=True))
        self._read(nodes, block_ms)
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK_S
            for node in nodes:
                self._look_after(node)
            self._reaper.tick()

    def _read(self, nodes: list[str], block_ms: int) -> None:
        if not nodes:
            time.sleep(block_ms / 1000)
            return
        told: dict[str, list[NodeEvent]] = {}
        if self._hear(nodes, told, block_ms):
            until = time.monotonic() + GATHER_S
            while not any(map(_is_awaited, chain(*told.values()))) and time.monotonic() < until:
                self._hear(nodes, told, math.ceil(GATHER_S * 1000))
        for node, events in told.items():
            self._apply(node, events)
        self._progress.flush()

    def _hear(self, nodes: list[str], told: dict[str, list[NodeEvent]], block_ms: int) -> bool:
        """Add what the nodes have said since to `told`; return whether that was anything. Progress is passed on at once."""
        wanted: dict[Any, Any] = {names.events_key(node): self._position(node) for node in nodes}
        wanted |= self._progress.keys()
        answer: Any = self._connection().xread(wanted, count=BATCH, block=block_ms)
        for key, entries in _streams(answer):
            kind, _, name = _text(key).removeprefix("wf:").partition(":")
            if kind == "op":
                self._progress.take(name, entries)
            else:
                told.setdefault(name, []).extend(self._take(name, entries))
        return bool(told)

    def _position(self, node: str) -> str:
        if node not in self._positions:
            seq = Node.objects.values_list("seq", flat=True).get(name=node)
            self._positions[node] = f"{seq}-0"
        return self._positions[node]

    def _take(self, node: str, entries: list[Any]) -> list[NodeEvent]:
        events = []
        for entry_id, fields in entries:
            try:
                events.append(read_event(client.node_key(node), fields.get(b"e") or fields.get("e") or ""))
            except ContractError as error:
                logger.warning("an event of node %s is not its own and was dropped: %s", node, error)
            self._positions[node] = _text(entry_id)
        return events

    def _apply(self, node: str, events: list[NodeEvent]) -> None:
        try:
            apply_batch(node, events)
        except Gap as gap:
            self.catch_up(node, gap.after)
        for event in events:
            if event.type == OPERATION and event.action in FINAL:
                self._progress.finish(
                    event.subject, str(event.attributes.get("kind", "")), self._connection()
                )

    # --- when the stream is not enough

    def catch_up(self, node: str, after: int) -> None:
        """Ask the node for the events after `after`, and for everything when its journal is a new one."""
        logger.info("asking node %s for its events after %s", node, after)
        while True:
            try:
                answer = client.query(node, "events.after", {"seq": after, "limit": BATCH})
            except NodeError as error:
                logger.warning("node %s does not tell its events: %s", node, error)
                return
            known = Node.objects.get(name=node)
            events = [from_json(NodeEvent, item) for item in answer["events"]]
            is_other = known.epoch not in ("", answer["epoch"])
            is_cut = bool(events) and events[0].seq != after + 1
            if is_other or is_cut or (not known.epoch and answer["last_seq"] > WORTH_REPLAYING):
                self._begin_anew(node, answer["epoch"], answer["last_seq"])
                return
            apply_batch(node, events)
            if len(events) < BATCH:
                self._positions[node] = f"{answer['last_seq']}-0"
                return
            after = events[-1].seq

    def _begin_anew(self, node: str, epoch: str, last_seq: int) -> None:
        """The journal is another one, or was cut: take the records as they are, and go on from its end."""
        logger.warning("node %s has a new journal: all its records are compared", node)
        self.confirm(node)
        Node.objects.filter(name=node).update(epoch=epoch, seq=last_seq)
        self._positions[node] = f"{last_seq}-0"

    def confirm(self, node: str) -> None:
        """Compare all our records of a node with its own."""
        for kind in APPLY:
            asked_at = timezone.now()
            try:
                answer = client.query(node, "records.list", {"type": kind})
            except NodeError as error:
                logger.warning("node %s does not list its %ss: %s", node, kind, error)
                return
            confirm(node, kind, answer["records"], asked_at)
        self._confirmed[node] = time.monotonic()

    def _look_after(self, node: str) -> None:
        beat = client.heartbeat(node)
        self._tell_presence(node, beat is not None)
        if beat is None:
            return
        Node.objects.filter(name=node).update(seen_at=timezone.now())
        known = Node.objects.get(name=node)
        if beat.epoch != known.epoch:
            self.catch_up(node, 0 if known.epoch else known.seq)
        elif beat.last_seq > known.seq and self._nothing_comes(node, known.seq):
            self.catch_up(node, known.seq)
        new_boot = self._boots.get(node) != beat.boot
        if new_boot or time.monotonic() - self._confirmed.get(node, 0.0) > CONFIRM_EVERY_S:
            self._boots[node] = beat.boot
            self.confirm(node)
            self._ask_info(node, beat)

    def _nothing_comes(self, node: str, seq: int) -> bool:
        """Say whether the stream does not have the next event (it was emptied, or our position lies behind its end)."""
        self._positions[node] = f"{seq}-0"
        return not self._connection().xrange(names.events_key(node), min=f"{seq + 1}-0", count=1)

    def _ask_info(self, node: str, beat: Heartbeat) -> None:
        try:
            info = client.query(node, "system.info")
        except NodeError as error:
            logger.warning("node %s does not describe itself: %s", node, error)
            return
        if isinstance(info, dict):
            Node.objects.filter(name=node).update(info={**info, "agent_version": beat.version})

    def _tell_presence(self, node: str, online: bool) -> None:
        if self._online.get(node) != online:
            self._online[node] = online
            action = "online" if online else "silent"
            publish(
                [
                    Note(
                        EVENTS,
                        {"type": "node", "action": action, "subject": node, "node": node, "attributes": {}},
                    )
                ]
            )


def _is_awaited(event: NodeEvent) -> bool:
    """Tell whether somebody may wait for this: the end of an operation, of a container's run, or of a container."""
    return event.action in FINAL if event.type == OPERATION else event.action in ("die", "destroy")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _streams(answer: Any) -> list[tuple[Any, list[Any]]]:
    """Return streams and entries of an XREAD answer in either protocol version of Redis."""
    if isinstance(answer, dict):
        return [
            (key, entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries)
            for key, entries in answer.items()
        ]
    return list(answer or [])
