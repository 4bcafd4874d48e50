"""`/ws/containers/{ref}/terminal/`: a terminal in a container, recorded, and kept for a minute when the line is cut.

Query: `command` (a line, default `sh`), `user`, `workdir`, `cols`, `rows`; `mode=attach` joins the container's own terminal;
`session` and `cursor` come back to a session. Binary messages are bytes of the terminal, both ways. Text messages are JSON:
from us `{"session", "cursor"}`, `{"type": "exit", "code"}`, `{"type": "error", "detail", "hint"}`; to us `{"type": "resize", "cols", "rows"}`.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from webapp.accounts.permissions import Permission
from webapp.audit.recordings import Recorder
from webapp.containers import policy
from webapp.containers.models import Container
from webapp.containers.selectors import container_get
from webapp.core.errors import Conflict, Invalid, Missing
from webapp.core.ids import new_container_id
from webapp.realtime.sessions import TerminalSession, sessions
from webapp.realtime.sockets import LiveConsumer

MAX_COMMAND = 1000
COLUMNS, ROWS = 80, 24


class TerminalConsumer(LiveConsumer):
    permission = Permission.OPERATE

    container: Container
    session: TerminalSession | None = None
    ticket = 0

    def prepare(self) -> None:
        if self.query.get("session"):
            self._rejoin(self.query["session"])
            return
        self.container = container_get(self.scope["url_route"]["kwargs"]["ref"])
        if not self.container.state.can_exec:
            raise Conflict(
                f"container {self.container.name} is {self.container.status}",
                code="wrong_state",
                hint="start it first",
            )
        rights = policy.judge_exec(self.actor, self.container, privileged=False)
        kind, params, command = self._wish(rights)
        columns, rows = _size(self.query.get("cols"), COLUMNS), _size(self.query.get("rows"), ROWS)
        recorder = Recorder(self.actor, self.container, command=command, columns=columns, rows=rows)
        recorder.begin()
        params |= {"width": columns, "height": rows}
        self.session = TerminalSession(self.actor, self.container.node.name, kind, params, recorder)

    def _wish(self, rights: list[str]) -> tuple[str, dict[str, Any], list[str]]:
        if self.query.get("mode") == "attach":
            params = {
                "container": self.container.id,
                "stdin": True,
                "stdout": True,
                "stderr": True,
                "logs": True,
            }
            return "attach", params, ["(attach)"]
        command = _words(self.query.get("command") or "sh")
        params = {
            "container": self.container.id,
            "exec_id": new_container_id(),
            "command": command,
            "env": {"TERM": "xterm-256color"},
            "user": self.query.get("user", "")[:64],
            "workdir": self.query.get("workdir", "")[:4096],
            "tty": True,
            "stdin": True,
            "hangup": True,
            "rights": rights,
        }
        return "exec", params, command

    def _rejoin(self, session_id: str) -> None:
        session = sessions.get(session_id)
        if session is None or session.actor.user != self.actor.user:
            raise Missing("the session has ended", code="session_not_found", hint="open a new terminal")
        self.session = session

    async def run(self) -> None:
        session = self.session
        assert session is not None  # prepare() made or found it
        await session.start()
        self.ticket = session.join()
        await self.say({"session": session.id, "cursor": session.cursor_text(self.query.get("cursor"))})
        async for data, cursor in session.output(self.ticket, self.query.get("cursor")):
            await self.send(bytes_data=data)
            await self.say({"cursor": cursor})
        if session.is_reader(self.ticket):
            await session.settled()
            await self.say({"type": "exit", "code": session.exit_code})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        session = self.session
        if session is None or not session.running:
            return
        if bytes_data is not None:
            await session.type(bytes_data)
            return
        try:
            message = json.loads(text_data or "")
            columns, rows = message["cols"], message["rows"]
            if message["type"] != "resize" or not _is_size(columns) or not _is_size(rows):
                raise ValueError("no size")
        except (ValueError, KeyError, TypeError):
            await self.say({"type": "error", "detail": "the message is not understood", "hint": ""})
            return
        await session.resize(columns, rows)

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        if self.session is not None:
            await self.session.left(self.ticket, for_good=code in (1000, 1001))

    async def _login_ended(self) -> None:
        await super()._login_ended()
        if self.session is not None:
            await self.session.end("the login or token ended")


def _words(line: str) -> list[str]:
    if len(line) > MAX_COMMAND:
        raise Invalid("the command is too long", fields={"command": ["too long"]})
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Invalid(f"command: {str(error).lower()}", fields={"command": ["unbalanced quotes"]}) from error
    if not words:
        raise Invalid("say which command to run", fields={"command": ["missing"]})
    return words


def _size(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and _is_size(int(text)) else default


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000
