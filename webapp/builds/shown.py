"""A build as its page shows it: the graph of stages, steps under their stages, verdicts of the cache, advice."""

from __future__ import annotations

import difflib
import re
from typing import Any

from webapp.builds.models import Build
from webapp.core.templatetags.wf import as_datetime, long_span_text, size_text
from webapp.operations.folding import Folded

BOX_W, BOX_H, GAP_X, GAP_Y = 168, 48, 52, 20
STATES = {
    "waiting": ("rest", "wait"),
    "running": ("work", "creating"),
    "cached": ("rest", "cached"),
    "done": ("ok", "done"),
    "failed": ("fail", "exited-failed"),
    "skipped": ("rest", "removed"),
    "cancelled": ("rest", "removed"),
}
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.I | re.M)


def view_of(build: Build, folded: Folded) -> dict[str, Any]:
    """Return stages with their steps, the graph, and figures. A running build is told by its log, an ended one by its record."""
    plan = folded.plan or list(build.plan or [])
    known = folded.steps or {str(step.get("id", "")): step for step in build.steps or []}
    stages = [_stage(stage, known, folded) for stage in plan] or _without_plan(known, folded)
    counts = _counts(stages)
    return {
        "stages": stages,
        "graph": graph_of(stages, _skipped(build.dockerfile, stages)),
        "counts": counts,
        "words": _words(counts),
        "now": _now(stages),
        "notes": folded.lines.get("", []),
        "problem": folded.problem,
        "elapsed": elapsed(build),
    }


def elapsed(build: Build) -> float | None:
    start, end = as_datetime(build.operation.started_at), as_datetime(build.operation.finished_at)
    return (end - start).total_seconds() if start and end else None


# --- stages and steps -----------------------------------------------------------------------------------------


def _stage(stage: dict[str, Any], known: dict[str, dict[str, Any]], folded: Folded) -> dict[str, Any]:
    planned = stage.get("steps") or []
    rows = planned if isinstance(planned, list) else []
    steps = [_step({**row, **known.get(str(row.get("id")), {})}, folded) for row in rows]
    if (
        len(steps) > 1
        and steps[0]["status"] == "waiting"
        and steps[1]["status"] not in ("waiting", "cancelled")
    ):
        steps[0] |= _as(
            "cached" if steps[1]["status"] == "cached" else "done"
        )  # a FROM is not always told of
    name = str(stage.get("name") or f"stage-{stage.get('index', 0)}")
    base_stage = stage.get("base_stage")
    return {
        "index": int(stage.get("index", 0)),
        "name": "last stage" if name.startswith("stage-") and stage.get("target") else name,
        "base": str(stage.get("base") or ""),
        "needs": sorted({*(stage.get("needs") or []), *([base_stage] if base_stage is not None else [])}),
        "on": str(stage.get("base") or "") if base_stage is not None else "",
        "target": bool(stage.get("target")),
        "steps": steps,
        **_stage_state(steps),
    }


def _without_plan(known: dict[str, dict[str, Any]], folded: Folded) -> list[dict[str, Any]]:
    """Return stages made up from steps alone, for a record that kept no plan."""
    names: dict[str, list[dict[str, Any]]] = {}
    for step in known.values():
        names.setdefault(str(step.get("stage") or ""), []).append(_step(step, folded))
    return [
        {
            "index": index,
            "name": name or "steps",
            "base": "",
            "needs": [],
            "on": "",
            "target": False,
            "steps": steps,
            **_stage_state(steps),
        }
        for index, (name, steps) in enumerate(names.items())
    ]


def _step(row: dict[str, Any], folded: Folded) -> dict[str, Any]:
    status = str(row.get("status") or "waiting")
    reason = str(row.get("reason") or "")
    key = str(row.get("id", ""))
    tone, glyph = STATES.get(status, ("rest", "wait"))
    lines = folded.lines.get(key, [])
    is_after = reason.startswith(("the step before", "after", "parent"))
    verdict = (
        "cached"
        if status == "cached"
        else ""
        if status in ("waiting", "skipped", "cancelled")
        else "after a miss"
        if is_after
        else "missed"
        if reason
        else ""
    )
    return {
        "id": key,
        "key": key.replace(".", "-"),
        "status": status,
        "tone": tone,
        "glyph": glyph,
        "text": str(row.get("name") or ""),
        "line": int(row.get("line") or 0),
        "verdict": verdict,
        "reason": reason if not is_after and status != "cached" else "",
        "duration": float(row.get("duration_s") or 0),
        "size": int(row.get("size_bytes") or 0),
        "image_id": str(row.get("image_id") or ""),
        "lines": _timed(lines),
        "dropped": folded.dropped.get(key, 0),
        "is_open": status in ("running", "failed"),
    }


def _as(status: str) -> dict[str, str]:
    tone, glyph = STATES[status]
    return {"status": status, "tone": tone, "glyph": glyph, "verdict": "cached" if status == "cached" else ""}


def _timed(lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return lines with the seconds since the first of them."""
    start = next((line["at"] for line in lines if isinstance(line.get("at"), int | float)), None)
    return [
        {
            "at": f"{line['at'] - start:6.1f}"
            if start is not None and isinstance(line.get("at"), int | float)
            else "",
            "text": line["text"],
            "stream": line["stream"],
        }
        for line in lines
    ]


def _stage_state(steps: list[dict[str, Any]]) -> dict[str, Any]:
    states = [step["status"] for step in steps]
    finished = sum(state in ("done", "cached") for state in states)
    spent = sum(step["duration"] for step in steps)
    if "failed" in states:
        return {
            "tone": "fail",
            "glyph": "exited-failed",
            "words": f"failed at {finished + 1} of {len(steps)}",
        }
    if "running" in states:
        return {"tone": "work", "glyph": "creating", "words": f"{finished} of {len(steps)}"}
    if steps and finished == len(steps):
        if all(state == "cached" for state in states):
            return {"tone": "rest", "glyph": "cached", "words": f"{len(steps)} of {len(steps)} cached"}
        return {"tone": "ok", "glyph": "done", "words": f"{len(steps)} steps, {long_span_text(spent)}"}
    if any(state == "cancelled" for state in states):
        return {"tone": "rest", "glyph": "removed", "words": f"cancelled at {finished + 1} of {len(steps)}"}
    return {
        "tone": "",
        "glyph": "wait",
        "words": f"{finished} of {len(steps)}, waits" if finished else "waits",
    }


def _counts(stages: list[dict[str, Any]]) -> dict[str, int]:
    states = [step["status"] for stage in stages for step in stage["steps"]]
    return {name: states.count(name) for name in STATES} | {"total": len(states)}


def _words(counts: dict[str, int]) -> str:
    names = (
        ("cached", "cached"),
        ("done", "done"),
        ("running", "running"),
        ("failed", "failed"),
        ("waiting", "wait"),
    )
    return ", ".join(f"{counts[key]} {word}" for key, word in names if counts[key])


def _now(stages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the number and text of the step that is being done."""
    number = 0
    for stage in stages:
        for step in stage["steps"]:
            number += 1
            if step["status"] == "running":
                return {
                    "number": number,
                    "text": step["text"],
                    "number_text": f"{number} of {sum(len(one['steps']) for one in stages)}",
                }
    return None


def _skipped(dockerfile: str, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages that the file has and the build does not need."""
    planned = {stage["index"] for stage in stages}
    names: dict[str, int] = {}
    skipped = []
    for index, match in enumerate(_FROM.finditer(dockerfile)):
        base, name = match.group(1), (match.group(2) or f"stage-{index}")
        if index not in planned and planned:
            skipped.append(
                {
                    "index": index,
                    "name": name,
                    "needs": [names[base.lower()]] if base.lower() in names else [],
                }
            )
        names[name.lower()] = index
    return skipped


# --- the graph ------------------------------------------------------------------------------------------------


def graph_of(stages: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> dict[str, Any]:
    """Return boxes and lines: a column a depth, each stage right of all that it stands on or copies from."""
    everything = {
        stage["index"]: stage
        for stage in (
            *stages,
            *(
                {**one, "tone": "skip", "glyph": "removed", "words": "skipped: nothing uses it"}
                for one in skipped
            ),
        )
    }
    depth: dict[int, int] = {}
    for index in sorted(everything):
        depth[index] = 1 + max(
            [depth[need] for need in everything[index]["needs"] if need in depth], default=-1
        )
    rows: dict[int, int] = {}
    boxes = {}
    for index in sorted(everything):
        column = depth[index]
        row = rows.get(column, 0)
        rows[column] = row + 1
        stage = everything[index]
        boxes[index] = {
            "x": column * (BOX_W + GAP_X), "y": 4 + row * (BOX_H + GAP_Y), "w": BOX_W, "h": BOX_H, "name": stage["name"], "words": stage["words"],
            "tone": stage["tone"] if stage["tone"] in ("work", "fail", "rest", "skip") else "", "ink": stage["tone"] if stage["tone"] not in ("", "skip") else "rest",
            "glyph": stage["glyph"], "key": f"stage-{index}",
        }  # fmt: skip
    edges = [
        {"d": _edge(boxes[need], boxes[index]), "tone": "work" if everything[index]["tone"] == "work" else ""}
        for index in everything
        for need in everything[index]["needs"]
        if need in boxes
    ]
    width = max([box["x"] for box in boxes.values()], default=0) + BOX_W + 2
    height = max([box["y"] for box in boxes.values()], default=0) + BOX_H + 8
    at_once = sum(stage["tone"] == "work" for stage in stages)
    words = ", ".join(
        part
        for part in (
            f"{at_once} at once" if at_once > 1 else "",
            f"{len(skipped)} not needed" if skipped else "",
        )
        if part
    )
    return {"boxes": list(boxes.values()), "edges": edges, "width": width, "height": height, "words": words}


def _edge(start: dict[str, Any], end: dict[str, Any]) -> str:
    x, y, to_x, to_y = start["x"] + BOX_W, start["y"] + BOX_H / 2, end["x"], end["y"] + BOX_H / 2
    middle = (x + to_x) / 2
    return f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"


# --- advice ---------------------------------------------------------------------------------------------------


def advice_of(build: Build) -> list[dict[str, Any]]:
    """Return advice with what it saves, in words; the largest saving first."""
    rows = [_advice(row) for row in build.advice or [] if isinstance(row, dict)]
    return sorted(rows, key=lambda row: (-row["bytes"], -row["seconds"]))


def _advice(row: dict[str, Any]) -> dict[str, Any]:
    bytes_, seconds = (
        int(row.get("saves_bytes") or row.get("size_bytes") or 0),
        float(row.get("saves_s") or 0),
    )
    title = str(row.get("title") or row.get("message") or row.get("text") or row.get("rule") or "")
    detail = str(row.get("detail") or row.get("why") or "")
    hint = str(row.get("hint") or row.get("fix") or "")
    return {
        "rule": str(row.get("rule") or "").replace("-", " ").replace("_", " "),
        "warns": row.get("severity") == "warning",
        "line": int(row.get("line") or 0),
        "title": title[:1].upper() + title[1:],
        "detail": detail,
        "hint": hint,
        "bytes": bytes_,
        "seconds": seconds,
        "saves": f"−{size_text(bytes_)}" if bytes_ else f"−{long_span_text(seconds)}" if seconds else "",
        "of": "of image" if bytes_ else "a build" if seconds else "",
    }


def advice_words(rows: list[dict[str, Any]]) -> str:
    bytes_, seconds = sum(row["bytes"] for row in rows), sum(row["seconds"] for row in rows)
    parts = [size_text(bytes_) if bytes_ else "", f"about {long_span_text(seconds)}" if seconds else ""]
    return f"would save {' and '.join(part for part in parts if part)}" if any(parts) else ""


# --- two builds -----------------------------------------------------------------------------------------------


def comparison(old: Build, new: Build) -> dict[str, Any]:
    """Return how two builds differ: the Dockerfile line by line, and each step's verdict, time and size."""
    lines = [
        {"mark": line[0], "text": line[2:]}
        for line in difflib.ndiff(old.dockerfile.splitlines(), new.dockerfile.splitlines())
        if line[:1] in "+- "
    ]
    steps = {
        name: {str(step.get("name", "")): step for step in build.steps or []}
        for name, build in (("old", old), ("new", new))
    }
    names = list(dict.fromkeys([*steps["old"], *steps["new"]]))
    rows = [
        {"name": name, "old": _brief(steps["old"].get(name)), "new": _brief(steps["new"].get(name))}
        for name in names
    ]
    return {
        "lines": lines,
        "rows": rows,
        "same_file": old.dockerfile == new.dockerfile,
        "grown": new.size_bytes - old.size_bytes,
    }


def _brief(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None:
        return None
    tone, glyph = STATES.get(str(step.get("status")), ("rest", "wait"))
    return {
        "status": step.get("status"),
        "tone": tone,
        "glyph": glyph,
        "duration": float(step.get("duration_s") or 0),
        "size": int(step.get("size_bytes") or 0),
    }
