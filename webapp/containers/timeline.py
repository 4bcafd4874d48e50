"""A container's life in one view: what people did (the audit book) and what happened to it (the node's events)."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from django.utils import timezone

from webapp.audit import selectors as audit
from webapp.audit.models import Entry, Outcome
from webapp.containers import services
from webapp.containers.models import Container
from webapp.core import states
from webapp.core.answers import attempt
from webapp.core.errors import AppError
from webapp.core.templatetags.wf import as_datetime
from webapp.nodes import selectors as nodes

SOURCES = {"": "Everything", "people": "People", "engine": "Engine", "kernel": "Kernel", "health": "Health"}
EVENTS_SHOWN = 300
LINES_AROUND = 8

# action of an event → tone, glyph, words
_EVENTS = {
    "create": ("rest", "exited-ok", "Made"),
    "start": ("ok", "running", "Started"),
    "restart": ("ok", "running", "Restarted"),
    "stop": ("rest", "exited-ok", "Stopped"),
    "kill": ("warn", "unhealthy", "Sent a signal"),
    "pause": ("hold", "paused", "Paused"),
    "unpause": ("ok", "running", "Resumed"),
    "rename": ("rest", "done", "Renamed"),
    "update": ("rest", "done", "Limits changed"),
    "destroy": ("rest", "removed", "Removed"),
    "start_failed": ("fail", "exited-failed", "Could not start"),
    "oom": ("fail", "exited-failed", "Killed by the kernel: out of memory"),
    "attach": ("rest", "person", "Attached"),
    "commit": ("rest", "done", "Committed to an image"),
}


def days_of(container: Container, source: str = "") -> tuple[list[dict[str, Any]], AppError | None]:
    """Return the days of a container's life, newest first, and why the node's part is missing, if it is."""
    events, problem = _events(container)
    happened = [*_from_events(events), *_from_book(container)]
    if source:
        happened = [item for item in happened if item["kind"] == source]
    happened.sort(key=lambda item: item["at"], reverse=True)
    return _by_day(happened), problem


def _events(container: Container) -> tuple[list[dict[str, Any]], AppError | None]:
    found = nodes.event_list(type="container", subject=container.id).order_by("-id")[:EVENTS_SHOWN]
    kept = [{"at": e.at, "action": e.action, "attributes": e.attributes, "key": f"e{e.pk}"} for e in found]
    answer, problem = attempt(lambda: services.ask(container, "timeline", limit=EVENTS_SHOWN))
    told = [_told(event, number) for number, event in enumerate((answer or {}).get("events") or [])]
    told = [event for event in told if event]
    return (told or kept), None if kept else problem


def _told(event: dict[str, Any], number: int) -> dict[str, Any]:
    at = as_datetime(event.get("time_ns") or event.get("time") or event.get("at"))
    attributes = {**(event.get("attributes") or {}), "lines": event.get("log") or event.get("lines")}
    key = f"n{event.get('seq', number)}"
    return {"at": at, "action": event.get("action", ""), "attributes": attributes, "key": key} if at else {}


def _from_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in map(_from_event, events) if item is not None]


def _from_event(event: dict[str, Any]) -> dict[str, Any] | None:
    action, attributes = event["action"], event["attributes"]
    base = {
        "at": event["at"],
        "key": event["key"],
        "kind": "engine",
        "source": "engine",
        "lines": _lines(attributes.get("lines")),
    }
    if action == "die":
        code = str(attributes.get("exitCode", attributes.get("exit_code", "?")))
        failed = code not in ("0", "143")
        tone, glyph = ("fail", "exited-failed") if failed else ("rest", "exited-ok")
        return base | {
            "tone": tone,
            "glyph": glyph,
            "text": f"Ended with exit code {code}",
            "strong": failed,
            "note": _lasted(attributes),
        }
    if action.startswith("health_status"):
        status = action.partition(":")[2].strip() or str(attributes.get("status", ""))
        well = status == "healthy"
        return base | {
            "kind": "health", "source": "health", "tone": "ok" if well else "warn", "glyph": "done" if well else "unhealthy",
            "text": status.capitalize() or "Health changed", "note": str(attributes.get("output", ""))[:200],
        }  # fmt: skip
    if action.startswith("exec"):
        return None  # told by the audit book, with who did it
    tone, glyph, text = _EVENTS.get(action, ("rest", "done", action.replace("_", " ").capitalize()))
    if action == "oom":
        base |= {"kind": "kernel", "source": "kernel", "strong": True}
    if action == "kill" and attributes.get("signal"):
        text = f"Sent the signal {attributes['signal']}"
    if action == "rename" and attributes.get("oldName"):
        text = f"Renamed from {str(attributes['oldName']).lstrip('/')}"
    return base | {"tone": tone, "glyph": glyph, "text": text}


def _lasted(attributes: dict[str, Any]) -> str:
    from webapp.core.templatetags.wf import long_span_text

    seconds = attributes.get("execDuration") or attributes.get("duration_s")
    return f"after {long_span_text(float(seconds))}" if seconds else ""


def _lines(lines: Any) -> list[dict[str, str]]:
    shown = []
    for line in [line for line in lines or [] if isinstance(line, dict)][-LINES_AROUND:]:
        moment = as_datetime(line.get("time_ns") or line.get("time"))
        shown.append(
            {
                "time": moment.strftime("%H:%M:%S.%f")[:12] if moment else "",
                "text": str(line.get("text", ""))[:500],
                "stream": str(line.get("stream", "")),
            }
        )
    return shown


def _from_book(container: Container) -> list[dict[str, Any]]:
    entries = [entry for entry in audit.entries_of("container", container.id) if _is_told(entry)]
    return [
        {
            "at": entry.at,
            "key": f"a{entry.seq}",
            "kind": "people",
            "tone": "warn"
            if entry.outcome == Outcome.REFUSED
            else "fail"
            if entry.outcome == Outcome.FAILED
            else "rest",
            "glyph": "person",
            "who": entry.actor or "nobody",
            "text": _words(entry),
            "note": ", ".join(
                part
                for part in (
                    entry.get_face_display(),
                    entry.token and f"token {entry.token}",
                    entry.address,
                    entry.detail,
                )
                if part
            ),
            "source": f"entry {entry.seq:,}",
            "link": f"/audit/?entry={entry.seq}",
        }
        for entry in entries
    ]


def _is_told(entry: Entry) -> bool:
    """A success is told by its request; what failed or was refused is told as well."""
    return entry.outcome in (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.FAILED) or not entry.operation


def _words(entry: Entry) -> str:
    verb = states.verb(entry.action).lower()
    if entry.outcome == Outcome.REFUSED:
        return f"was refused: {verb}"
    if entry.outcome == Outcome.FAILED:
        return f"asked to {verb}: it failed"
    return {"session.open": "signed in"}.get(
        entry.action,
        f"asked to {verb} it" if entry.outcome == Outcome.ACCEPTED else entry.action.replace(".", " "),
    )


def _by_day(happened: list[dict[str, Any]]) -> list[dict[str, Any]]:
    today = timezone.now().date()
    names = {today: "Today", today - datetime.timedelta(days=1): "Yesterday"}
    days: list[dict[str, Any]] = []
    for item in happened:
        day = item["at"].date()
        name = names.get(day, day.strftime("%d %B %Y").lstrip("0"))
        if not days or days[-1]["name"] != name:
            days.append({"name": name, "items": []})
        days[-1]["items"].append(item)
    return days


# --- who talks to whom ----------------------------------------------------------------------------------------

BOX_W, BOX_H, GAP_X, GAP_Y = 176, 56, 56, 20


def graph_of(rows: list[Container]) -> dict[str, Any]:
    """Return the picture of an application: what is published on the left, then its members by network.

    Members with a published port come first, those whose port somebody's environment names come after them; a line
    joins two members of one network where the right one listens.
    """
    outer = [row for row in rows if row.summary.get("ports")]
    inner = [row for row in rows if row not in outer]
    columns = [
        column
        for column in (outer, [r for r in inner if not _keeps_data(r)], [r for r in inner if _keeps_data(r)])
        if column
    ]
    boxes: dict[str, dict[str, Any]] = {}
    published = [
        {"x": 0, "y": _y(number), "w": 104, "text": f"port {port['host_port']}", "to": row.id}
        for number, (row, port) in enumerate(
            [(row, port) for row in outer for port in _unique_ports(row)][:6]
        )
    ]
    left = 104 + GAP_X if published else 0
    for at, column in enumerate(columns):
        for number, row in enumerate(column):
            kind = states.kind_of(row)
            boxes[row.id] = {
                "x": left + at * (BOX_W + GAP_X), "y": _y(number), "w": BOX_W, "h": BOX_H, "name": row.service or row.name, "id": row.id[:12],
                "note": ", ".join(f"{n.get('ipv4_address') or n['name']}" for n in (row.summary.get("networks") or [])[:1]),
                "glyph": kind if kind != "removed" else "exited-ok", "tone": states.TONE_OF[kind],
                "node_tone": "fail" if kind == "exited-failed" else "work" if kind == "creating" else "",
            }  # fmt: skip
    edges = [_edge(box["x"] + box["w"], box["y"] + BOX_H / 2, boxes[box["to"]]) for box in published]
    for before, after in pairwise(columns):
        edges += [
            _edge(boxes[a.id]["x"] + BOX_W, boxes[a.id]["y"] + BOX_H / 2, boxes[b.id])
            for a in before
            for b in after
            if _share_network(a, b)
        ]
    height = max([box["y"] for box in [*boxes.values(), *published]], default=0) + BOX_H + 8
    return {
        "published": published,
        "boxes": list(boxes.values()),
        "edges": edges,
        "width": left + len(columns) * (BOX_W + GAP_X) - GAP_X + 2,
        "height": height,
    }


def _y(number: int) -> int:
    return 4 + number * (BOX_H + GAP_Y)


def _edge(x: float, y: float, box: dict[str, Any]) -> str:
    end_x, end_y = box["x"], box["y"] + BOX_H / 2
    middle = (x + end_x) / 2
    return f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {end_y:g} {end_x:g} {end_y:g}"


def _unique_ports(row: Container) -> list[dict[str, Any]]:
    seen = {port.get("host_port"): port for port in row.summary.get("ports") or []}
    return list(seen.values())


def _keeps_data(row: Container) -> bool:
    return any(
        mount.get("type") == "volume" and not mount.get("read_only")
        for mount in row.summary.get("mounts") or []
    )


def _share_network(a: Container, b: Container) -> bool:
    names = [{entry.get("name") for entry in row.summary.get("networks") or []} for row in (a, b)]
    return bool(names[0] & names[1] - {"bridge"})
