"""What of a request may stand in the book: everything but secrets.

Values of environment variables and build arguments never do, whatever their names; fields that are named like secrets
and passwords inside of URLs neither.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "•••"
MAX_TEXT = 2000
MAX_ITEMS = 200
MAX_DEPTH = 12
_SECRET_NAME = re.compile(
    r"passw|secret|token|credential|api_?key|private|auth(?!or)|cookie|session", re.IGNORECASE
)
_VALUES_ARE_SECRET = frozenset({"env", "build_args", "secrets", "registries", "headers"})
_URL_USERINFO = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")
_PAIR = re.compile(r"(?i)((?:passw(?:or)?d|secret|token|api_?key)\s*[=:]\s*)\S+")


def mask(value: Any, *, depth: int = 0) -> Any:
    """Return `value` (JSON) as the book keeps it; long texts and lists are cut and say so."""
    if depth > MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {str(key): _field(str(key), item, depth) for key, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple):
        shown = [mask(item, depth=depth + 1) for item in value[:MAX_ITEMS]]
        return shown if len(value) <= MAX_ITEMS else [*shown, f"… {len(value) - MAX_ITEMS} more"]
    if isinstance(value, str):
        return mask_text(value)
    return value


def mask_text(text: str) -> str:
    """Return a text without passwords in URLs and without `password=...`, at most `MAX_TEXT` letters of it."""
    text = _PAIR.sub(lambda match: match.group(1) + MASK, _URL_USERINFO.sub(MASK, text))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} letters)"


def _field(name: str, value: Any, depth: int) -> Any:
    if name in _VALUES_ARE_SECRET:
        if isinstance(value, dict):
            return dict.fromkeys(list(value)[:MAX_ITEMS], MASK)
        if isinstance(value, list):
            return [
                str(item).partition("=")[0] + "=" + MASK if isinstance(item, str) else MASK
                for item in value[:MAX_ITEMS]
            ]
        return MASK if value else value
    if _SECRET_NAME.search(name) and value not in (None, "", False, True, [], {}):
        return MASK
    return mask(value, depth=depth + 1)
