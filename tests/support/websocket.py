"""A websocket client in the same process: talks ASGI to the application."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from asgiref.testing import ApplicationCommunicator


class WebsocketClient(ApplicationCommunicator):
    def __init__(self, application: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        plain, _, query = path.partition("?")
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "headers": headers,
            "client": ("192.0.2.7", 4000),
            "subprotocols": [],
        }
        super().__init__(application, scope)

    async def connect(self) -> bool:
        """Shake hands; return whether the connection was accepted."""
        await self.send_input({"type": "websocket.connect"})
        return bool((await self.receive_output(5))["type"] == "websocket.accept")

    async def message(self) -> str | bytes:
        """Return the next message; an end of the connection fails the test."""
        output = await self.receive_output(5)
        assert output["type"] == "websocket.send", output
        return output["text"] if output.get("text") is not None else output["bytes"]

    async def say(self, data: str | bytes) -> None:
        await self.send_input(
            {"type": "websocket.receive", "bytes" if isinstance(data, bytes) else "text": data}
        )

    async def leave(self, code: int = 1000) -> None:
        """Close, and wait until the application has let go."""
        await self.send_input({"type": "websocket.disconnect", "code": code})
        await self.wait(5)
