"""What a page says of work while it is done: one line, a share of the whole, and a row a layer."""

from __future__ import annotations

from typing import Any

from webapp.core import states
from webapp.core.templatetags.wf import size_text
from webapp.operations.models import Operation

_LAYER_WORDS = {
    "exists": "was here already",
    "mounted": "taken from another repository",
    "waiting": "waits",
    "downloading": "",
    "uploading": "",
    "verifying": "checking",
    "extracting": "unpacking",
    "retrying": "trying again",
    "done": "done",
}
_AT_REST = ("exists", "mounted")


def url_of(operation: Operation) -> str:
    """Return the page where this work is watched: builds have their own."""
    return f"/builds/{operation.pk}/" if operation.kind == "build.run" else f"/operations/{operation.pk}/"


def summary_of(operation: Operation) -> dict[str, Any]:
    """Return title, words and percent (0: not known) for a line about an operation."""
    progress = operation.progress or {}
    layers = layers_of(operation)
    words, percent = str(progress.get("message") or ""), 0.0
    if layers:
        current, total = sum(layer["current"] for layer in layers), sum(layer["total"] for layer in layers)
        finished = sum(layer["status"] in ("done", *_AT_REST) for layer in layers)
        percent = 100 * current / total if total else 0.0
        words = (
            f"{size_text(current)} of {size_text(total)}, {finished} of {len(layers)} layers"
            if total
            else words
        )
    elif progress.get("steps_total"):
        done, whole = progress.get("steps_done") or 0, progress["steps_total"]
        percent = 100 * done / whole
        words = f"step {min(done + 1, whole)} of {whole}{', ' + str(progress.get('step')) if progress.get('step') else ''}"
    if operation.status == "queued" and not words:
        words = "waits for the node" if operation.sent_at else "waits to be sent"
    return {
        "title": operation.target or states.verb(operation.kind),
        "doing": states.doing(operation.kind),
        "words": words[:200],
        "percent": f"{percent:.1f}" if percent else "",
        "url": url_of(operation),
    }


def layers_of(operation: Operation) -> list[dict[str, Any]]:
    """Return a row a layer: id, bytes, tone, share and words, in the order in which the node named them."""
    kept = (operation.progress or {}).get("layers") or {}
    rows = list(kept.values()) if isinstance(kept, dict) else list(kept)
    return [_layer(row) for row in rows if isinstance(row, dict)]


def _layer(row: dict[str, Any]) -> dict[str, Any]:
    status = str(row.get("status", ""))
    current, total = int(row.get("current") or 0), int(row.get("total") or 0)
    moving = status in ("downloading", "uploading")
    words = (
        f"{size_text(current)} of {size_text(total)}"
        if moving and total
        else size_text(current)
        if moving
        else _LAYER_WORDS.get(status, status)
    )
    if status == "done" and total:
        words = f"done, {size_text(total)}"
    share = (
        100.0
        if status not in ("waiting", "downloading", "uploading", "retrying")
        else 100 * current / total
        if total
        else 0.0
    )
    return {
        "id": str(row.get("id", "")),
        "status": status,
        "current": total if status in ("done", "extracting", "verifying") else current,
        "total": 0 if status in _AT_REST else total,
        "tone": "rest" if status in _AT_REST else "work",
        "percent": f"{share:.1f}",
        "words": words,
    }
