"""Text in double quotes as image histories have it (the form of Go's `%q`), so that other tools read it back."""

from __future__ import annotations

from collections.abc import Iterable

_ESCAPES = {
    "\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def quote(text: str) -> str:
    """Return `text` in double quotes, unprintable characters escaped."""
    return '"' + "".join(_character(character) for character in text) + '"'


def quote_list(words: Iterable[str]) -> str:
    """Return `["a" "b"]`."""
    return "[" + " ".join(quote(word) for word in words) + "]"


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
