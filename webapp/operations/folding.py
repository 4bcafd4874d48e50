"""An operation's log entries folded into what a page shows: the plan, the newest state of each step and layer, the lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from webapp.core.errors import AppError
from webapp.operations.models import Operation
from webapp.operations.services import ask

ENTRIES = 5000
LINES_OF_A_STEP = 200


@dataclass
class Folded:
    """`lines` are by step; the empty step holds what belongs to none."""

    plan: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    problem: AppError | None = None

    def take(self, entry: dict[str, Any]) -> None:
        kind = entry.get("type")
        if kind == "plan":
            self.plan = list(entry.get("stages") or [])
        elif kind == "stepprogress":
            self.steps[str(entry.get("id", ""))] = entry
        elif kind == "layerprogress":
            self.layers[str(entry.get("id", ""))] = entry
        elif kind == "message":
            self._line(str(entry.get("step", "")), entry)
        elif kind == "attempt":
            self.steps, self.layers, self.lines, self.dropped = {}, {}, {}, {}

    def _line(self, step: str, entry: dict[str, Any]) -> None:
        lines = self.lines.setdefault(step, [])
        for text in str(entry.get("text", "")).rstrip("\n").split("\n"):
            lines.append({"text": text, "stream": entry.get("stream", ""), "at": entry.get("at", "")})
        if len(lines) > LINES_OF_A_STEP:
            self.dropped[step] = self.dropped.get(step, 0) + len(lines) - LINES_OF_A_STEP
            del lines[: len(lines) - LINES_OF_A_STEP]


def log_of(operation: Operation, entries: int = ENTRIES) -> Folded:
    """Ask the node for the operation's log and fold it; a node that does not answer leaves `problem`."""
    folded = Folded()
    if operation.sent_at is None:
        return folded
    try:
        answer = ask(operation.node, "operation.log", {"id": operation.id, "offset": 0, "limit": entries})
    except AppError as error:
        folded.problem = error
        return folded
    for entry in answer.get("entries") or []:
        if isinstance(entry, dict):
            folded.take(entry)
    return folded
