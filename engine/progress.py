"""What long work says while it runs, and how it is told to stop.

The engine calls a `Reporter` with small frozen values; who listens turns them into log lines, bars or Docker's
JSON messages. A reporter must be quick and must not raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import Cancelled


@dataclass(frozen=True)
class Message:
    """A line of text for people. `stream` is `stdout`, `stderr` (of a build step) or `note` (the engine itself)."""

    text: str
    stream: str = "note"
    step: str = ""


@dataclass(frozen=True)
class LayerProgress:
    """State of one layer in a pull, push, load or import.

    `status`: `waiting`, `downloading`, `verifying`, `extracting`, `uploading`, `mounted`, `done`, `exists`, `retrying`.
    `current` and `total` are bytes of the compressed blob; `total` 0 means unknown.
    """

    id: str
    status: str
    current: int = 0
    total: int = 0


@dataclass(frozen=True)
class StepProgress:
    """State of one build step.

    `status`: `waiting`, `running`, `cached`, `done`, `failed`, `skipped`, `cancelled`. `id` is unique in the build
    (`<stage index>.<instruction index>`), `line` the line in the Dockerfile, `reason` why the cache missed.
    """

    id: str
    status: str
    stage: str = ""
    name: str = ""
    line: int = 0
    reason: str = ""
    duration_s: float = 0.0
    image_id: str = ""
    size_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """The graph of a build, said once before its first step; each stage is a JSON object (see `build.plan`)."""

    stages: list[dict[str, Any]] = field(default_factory=list)


Report = Message | LayerProgress | StepProgress | Plan
Reporter = Callable[[Report], None]


def silent(report: Report) -> None:
    """Ignore what is reported."""


def report_to_json(report: Report) -> dict[str, Any]:
    """Return a report as the JSON object that crosses processes: its fields and `type` (the class name, lower case)."""
    return {"type": type(report).__name__.lower(), **asdict(report)}


class CancelToken:
    """A flag that one thread sets and the working threads look at, at least every second."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked to stop."""
        if self._event.is_set():
            raise Cancelled("cancelled on request")

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; return True at once when cancelled."""
        return self._event.wait(timeout_s)
