"""Errors as they cross processes: a plain object with the fields of an RFC 9457 problem that people need.

`code` is the engine's (`not_found`, `image_not_found`, `already_exists`, `wrong_state`, `in_use`, `denied`, `invalid_input`,
`dockerfile_error`, `unsupported`, `unavailable`, `registry_error`, `no_space`, `command_failed`, `corrupt`, `cancelled` ...) or one of
those here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

INTERNAL = "internal_error"  # a bug of ours; the node's log has the traceback
REFUSED = "refused"  # bad signature, unknown kind or version, malformed payload
DEADLINE = "deadline_exceeded"
INTERRUPTED = "interrupted"  # the worker died more than once while doing this
NODE_SILENT = "node_silent"  # no agent answers for this node


@dataclass(frozen=True)
class Problem:
    """What went wrong. `detail` is one sentence for people, `hint` says what to do, `context` are facts (JSON)."""

    code: str
    detail: str
    hint: str = ""
    retryable: bool = False
    context: dict[str, Any] = field(default_factory=dict)  # any JSON


class NodeError(Exception):
    """A node answered with a problem, or not at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def code(self) -> str:
        return self.problem.code


class NodeSilent(NodeError):
    """Nobody answered in time."""

    def __init__(self, node: str) -> None:
        super().__init__(
            Problem(
                NODE_SILENT,
                f"node {node!r} does not answer",
                hint="see whether its agent runs",
                retryable=True,
            )
        )
