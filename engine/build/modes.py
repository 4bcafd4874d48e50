"""`--chmod`: an octal mode, or changes in the words of chmod(1): `u=rwX,go=rX`, `+x`, `g-w`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import InvalidInput

_OCTAL = re.compile(r"[0-7]{1,6}\Z")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)\Z")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_BITS = {"r": 4, "w": 2, "x": 1}
_SHIFT = {"u": 6, "g": 3, "o": 0}


@dataclass(frozen=True)
class ModeChange:
    """What becomes of modes: an absolute one, or clauses `(who, operator, permissions)` one after the other."""

    absolute: int | None = None
    clauses: tuple[tuple[str, str, str], ...] = ()

    def apply(self, mode: int, *, is_folder: bool) -> int:
        """Return the mode that `mode` becomes."""
        if self.absolute is not None:
            return self.absolute
        for who, operator, permissions in self.clauses:
            mode = _changed(mode, who, operator, permissions, is_folder)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Read a mode; raise `InvalidInput` with the usual message."""
    if text[:1].isdigit():
        if not _OCTAL.match(text) or int(text, 8) > 0o7777:
            raise InvalidInput(
                f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            )
        return ModeChange(int(text, 8))
    clauses: list[tuple[str, str, str]] = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause)
        if not match:
            raise InvalidInput(f"invalid chmod parameter: '{text}'. write it like 0755 or u=rwX,go=rX")
        clauses += [(match[1] or "a", action[1], action[2]) for action in _ACTION.finditer(match[2])]
    return ModeChange(clauses=tuple(clauses))


def _changed(mode: int, who: str, operator: str, permissions: str, is_folder: bool) -> int:
    classes = "ugo" if "a" in who else who
    bits = special = 0
    for name in classes:
        bits |= _permission_bits(mode, permissions, is_folder) << _SHIFT[name]
    if "s" in permissions:
        special |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    if "t" in permissions:
        special |= 0o1000
    if operator == "+":
        return mode | bits | special
    if operator == "-":
        return mode & ~(bits | special)
    cleared = sum(7 << _SHIFT[name] for name in classes)
    cleared |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    if is_folder and "s" not in permissions:
        cleared &= 0o777  # a folder keeps its setuid and setgid bits unless they are named
    return (mode & ~cleared) | bits | special


def _permission_bits(mode: int, permissions: str, is_folder: bool) -> int:
    if permissions in _SHIFT:
        return mode >> _SHIFT[permissions] & 7
    bits = 0
    for letter in permissions:
        bits |= _BITS.get(letter, 0)
        if letter == "X" and (is_folder or mode & 0o111):
            bits |= 1
    return bits
