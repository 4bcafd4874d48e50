"""What must not be written down: secrets in output, credentials in addresses, arguments whose name says that they are secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MASK = "***"
_SHORTEST = 4  # bytes; masking shorter ones would shred every output
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@\"']*@")


def looks_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is secret (`API_TOKEN`, not `PUBLIC_KEY`)."""
    return bool(_SECRET.search(name)) and not _HARMLESS.search(name)


def without_credentials(text: str) -> str:
    """Return a text with the credentials in its addresses replaced."""
    return _CREDENTIALS.sub(rf"\1{MASK}@", text)


def shown_arguments(arguments: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return arguments as they may stand in a history or a log."""
    return {
        name: value if value is None else MASK if looks_secret(name) else without_credentials(value)
        for name, value in arguments.items()
    }


class Masker:
    """Takes secret values out of a stream of bytes, also where one is split between two pieces."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        values = {
            part
            for secret in secrets
            for part in (secret.strip(), *secret.split(b"\n"))
            if len(part) >= _SHORTEST
        }
        self._values = sorted(values, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(value) for value in self._values)) if values else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown by now; the beginning of a possible secret is held back."""
        if self._pattern is None:
            return data
        data = self._pattern.sub(MASK.encode(), self._held + data)
        keep = self._prefix_at_end(data)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep] if keep else data

    def flush(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held

    def _prefix_at_end(self, data: bytes) -> int:
        longest = min(len(data), len(self._values[0]) - 1)
        tail = data[len(data) - longest :]
        for size in range(longest, 0, -1):
            end = tail[longest - size :]
            if any(value.startswith(end) for value in self._values if len(value) > size):
                return size
        return 0
