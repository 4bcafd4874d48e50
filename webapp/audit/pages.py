"""The audit book: search, one entry beside the list, exports, the chain, recorded terminal sessions."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from webapp.accounts.permissions import Permission
from webapp.audit import chain, selectors
from webapp.audit.models import Entry, Face, Head, Recording
from webapp.core.answers import attempt, number, part_of
from webapp.core.errors import Missing
from webapp.core.routes import page
from webapp.core.templatetags.wf import as_datetime
from webapp.core.times import parse_moment

OUTCOMES = (
    ("", "All", "", ""),
    ("failed", "Failed", "exited-failed", "fail"),
    ("refused", "Refused", "unhealthy", "warn"),
)
SPANS = (
    ("", "Any time"),
    ("1h", "Last hour"),
    ("1d", "Last day"),
    ("7d", "Last 7 days"),
    ("30d", "Last 30 days"),
)
ACTIONS = (
    ("", "Every action"), ("container.", "Containers"), ("image.", "Images"), ("build.", "Builds"), ("volume.", "Volumes"), ("network.", "Networks"),
    ("terminal.", "Terminals"), ("session.", "Sign-ins"), ("user.", "People"), ("token.", "Tokens"), ("registry.", "Registries"), ("system.", "System"),
)  # fmt: skip
PLACES = {
    "container": "/containers/{id:.12}/", "image": "/images/{id}/", "volume": "/volumes/{name}/", "network": "/networks/{name}/",
    "build": "/builds/{id}/", "operation": "/operations/{id}/", "node": "/nodes/{name}/",
}  # fmt: skip


@page(Permission.VIEW)
def audit_book(request: HttpRequest) -> HttpResponse:
    wanted = {
        name: request.GET.get(name, "").strip()
        for name in ("q", "actor", "action", "outcome", "face", "target", "since", "until", "operation")
    }
    moment, problem = attempt(lambda: parse_moment(wanted["since"]))
    end, other = attempt(lambda: parse_moment(wanted["until"], field="until"))
    found = selectors.entry_list(
        selectors.EntryFilter(
            actor=wanted["actor"], action=wanted["action"], outcome=wanted["outcome"], face=wanted["face"], target=wanted["target"],
            search=wanted["q"], operation=wanted["operation"], since=moment, until=end,
        )
    )  # fmt: skip
    listed = part_of(request, found, size=50)
    chosen = _chosen(request, listed.items)
    context = {
        "page": listed,
        "wanted": wanted,
        "filtered": any(wanted.values()),
        "problem": problem or other,
        "chosen": entry_view(chosen) if chosen else None,
        "head": Head.objects.filter(pk=1).first(),
        "outcomes": [
            {"key": key, "label": label, "glyph": glyph, "tone": tone, "current": key == wanted["outcome"]}
            for key, label, glyph, tone in OUTCOMES
        ],
        "actions": [
            {"key": key, "label": label, "current": key == wanted["action"]} for key, label in ACTIONS
        ],
        "faces": [{"key": "", "label": "Every door", "current": not wanted["face"]}]
        + [{"key": key, "label": label, "current": key == wanted["face"]} for key, label in Face.choices],
        "spans": [{"key": key, "label": label, "current": key == wanted["since"]} for key, label in SPANS],
        "people": list(Entry.objects.order_by("actor").values_list("actor", flat=True).distinct()[:200]),
        "export_query": _export_query(wanted),
        "call_path": f"/api/v1/audit/{'?' + _export_query(wanted) if _export_query(wanted) else ''}",
    }
    return render(request, "audit/book.html", context)


def _export_query(wanted: dict[str, str]) -> str:
    kept = {"search" if name == "q" else name: value for name, value in wanted.items() if value}
    return urlencode(kept)


def _chosen(request: HttpRequest, entries: list[Entry]) -> Entry | None:
    wanted = number(request.GET.get("entry", ""), 0)
    if wanted:
        entry, problem = attempt(lambda: selectors.entry_get(wanted))
        if problem is None:
            return entry
    return entries[0] if entries else None


def entry_view(entry: Entry) -> dict[str, Any]:
    """Return everything about an entry: its neighbours in the chain, the request, how it ended."""
    around = {found.seq: found for found in Entry.objects.filter(seq__in=(entry.seq - 1, entry.seq + 1))}
    place = PLACES.get(entry.target_type, "")
    gone = entry.action.endswith((".remove", ".prune"))
    key = entry.target_id.removeprefix("sha256:")
    return {
        "entry": entry,
        "body": json.dumps(json.loads(entry.body), indent=2, ensure_ascii=False)
        if entry.body not in ("", "{}")
        else "",
        "before": around.get(entry.seq - 1),
        "after": around.get(entry.seq + 1),
        "outcome": selectors.outcome_of(entry),
        "url": place.format(id=key, name=entry.target)
        if place and entry.target and not gone and (key or "{id" not in place)
        else "",
        "fits": chain.link_hash(entry) == entry.hash,
    }


@page(Permission.VIEW)
def audit_verify(request: HttpRequest) -> HttpResponse:
    """Check the whole chain now and say the answer."""
    began = time.monotonic()
    verification = chain.verify()
    context = {
        "verification": verification,
        "seconds": time.monotonic() - began,
        "at": timezone.now(),
        "first": Entry.objects.order_by("seq").first(),
    }
    return render(request, "audit/verified.html", context)


# --- recorded terminal sessions -------------------------------------------------------------------------------


@page(Permission.VIEW)
def recording_list(request: HttpRequest) -> HttpResponse:
    listed = part_of(request, selectors.recording_list(), size=50)
    return render(request, "audit/recordings.html", {"page": listed})


@page(Permission.VIEW)
def recording(request: HttpRequest, pk: str) -> HttpResponse:
    found = Recording.objects.filter(pk=pk).first()
    if found is None:
        raise Missing(f"no recording {pk[:32]!r}", code="recording_not_found")
    actor = request.actor  # type: ignore[attr-defined]
    start, end = as_datetime(found.started_at), as_datetime(found.finished_at)
    context = {
        "recording": found,
        "may_watch": actor.is_admin or actor.name == found.username,
        "length": (end - start).total_seconds() if start and end else None,
        "cast": f"/api/v1/recordings/{found.pk}/",
    }
    return render(request, "audit/recording.html", context)
