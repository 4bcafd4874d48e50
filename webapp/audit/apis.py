"""REST of the book."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from webapp.accounts.permissions import Permission
from webapp.api import docs, shapes
from webapp.api.base import WharfingerView
from webapp.api.docs import describe
from webapp.audit import chain, recordings, selectors, services
from webapp.core.errors import Invalid
from webapp.core.times import parse_moment
from webapp.realtime.responses import disposition

FILTERS = (
    "actor", "action", "target", "target_type", "outcome", "face", "operation", "search", "since", "until", "format",
    "limit", "cursor",
)  # fmt: skip


def filter_of(query: Any) -> selectors.EntryFilter:
    """Return the filter that a query string asks for."""
    names = ("actor", "action", "target", "target_type", "outcome", "face", "node", "operation", "search")
    return selectors.EntryFilter(
        **{name: query.get(name, "") for name in names},
        since=parse_moment(query.get("since", "")),
        until=parse_moment(query.get("until", ""), field="until"),
    )


class AuditView(WharfingerView):
    permissions = {"GET": Permission.VIEW}
    query = {"GET": FILTERS}

    @describe(
        "Who did what, newest first; `format=csv` and `format=jsonl` export all that fits",
        answer=docs.page_of(shapes.ENTRY),
        query=FILTERS,
    )
    def get(self, request: Request) -> HttpResponse:
        query = request.query_params
        entries = selectors.entry_list(filter_of(query))
        form = query.get("format", "json") or "json"
        if form == "json":
            return self.listing(entries, selectors.to_json, keys=("seq",))
        if form not in ("csv", "jsonl"):
            raise Invalid("format must be json, csv or jsonl", fields={"format": ["json, csv or jsonl"]})
        services.record(
            self.actor, "audit.export", target_type="audit", target=form, body=dict(query.items())
        )
        return export(entries, form)


def export(entries: Any, form: str) -> StreamingHttpResponse:
    """Return a download of entries as `csv` or `jsonl`, streamed."""
    lines = (selectors.as_csv if form == "csv" else selectors.as_jsonl)(entries.iterator(chunk_size=1000))
    content_type = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
    response = StreamingHttpResponse(lines, content_type=content_type)
    response["Content-Disposition"] = disposition(f"audit.{form}")
    return response


class VerifyView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("Check the whole chain of entries", answer=shapes.VERIFICATION)
    def get(self, request: Request) -> Response:
        return Response(asdict(chain.verify()))


class EntryView(WharfingerView):
    permissions = {"GET": Permission.VIEW}

    @describe("One entry", answer=shapes.ENTRY)
    def get(self, request: Request, seq: int) -> Response:
        return Response(selectors.to_json(selectors.entry_get(seq)))


class RecordingView(WharfingerView):
    """A terminal may have shown secrets: its recording is for admins, and for who sat there."""

    permissions = {"GET": Permission.VIEW}

    @describe("A recorded terminal session (asciicast)", answer=docs.BINARY, media="application/x-asciicast")
    def get(self, request: Request, pk: str) -> FileResponse:
        recording = recordings.readable(self.actor, pk)
        response = FileResponse(
            recordings.path_of(recording).open("rb"), content_type="application/x-asciicast"
        )
        response["Content-Disposition"] = disposition(f"{recording.container_name}-{recording.id[:12]}.cast")
        return response
