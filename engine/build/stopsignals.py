"""Signals as STOPSIGNAL names them: `SIGTERM`, `term`, `9`, `SIGRTMIN+3`. Source: signal(7)."""

from __future__ import annotations

import re
import signal

_REALTIME = re.compile(r"RT(?:MIN(?:\+(\d{1,2}))?|MAX(?:-(\d{1,2}))?)\Z")
_HIGHEST = 64


def is_signal(text: str) -> bool:
    """Tell whether `text` names a signal of Linux."""
    if text.isascii() and text.isdigit():
        return len(text) <= 2 and 1 <= int(text) <= _HIGHEST
    name = text.upper().removeprefix("SIG")
    match = _REALTIME.match(name)
    if match:
        return int(match[1] or 0) <= 30 and int(match[2] or 0) <= 30
    return "SIG" + name in signal.Signals.__members__
