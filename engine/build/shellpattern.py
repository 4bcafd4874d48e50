"""Patterns inside `${name#pattern}` and its kin: `*` any text, `?` any character, an escape before a character.

A pattern is a list of pieces between the stars; a piece is a row of characters of which some may be anything. Finding the
shortest or the longest match needs no going back, so costs stay at the product of both lengths even for hostile input.
"""

from __future__ import annotations

from dataclasses import dataclass

Piece = tuple[str | None, ...]  # None matches any one character


class PatternError(ValueError):
    """A pattern holds an escape that means nothing."""


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern. `pieces` are what stands between the stars: n stars make n+1 pieces, some of them empty."""

    pieces: tuple[Piece, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern; raise `PatternError` for an escape before anything but `*`, `?`, `}`, `/` and a backslash."""
        pieces: list[list[str | None]] = [[]]
        characters = iter(text)
        for character in characters:
            if character == "*":
                pieces.append([])
            elif character == "?":
                pieces[-1].append(None)
            elif character == "\\":
                escaped = next(characters, "")
                if escaped not in ("*", "?", "\\", "}", "/"):
                    raise PatternError(f"invalid escape '\\{escaped}'")
                pieces[-1].append(escaped)
            else:
                pieces[-1].append(character)
        return cls(tuple(tuple(piece) for piece in pieces))

    def without_prefix(self, value: str, longest: bool) -> str:
        """Return `value` without what the pattern matches at its start."""
        end = self._match(value, 0, longest)
        return value if end is None else value[end:]

    def without_suffix(self, value: str, longest: bool) -> str:
        """Return `value` without what the pattern matches at its end."""
        backwards = Pattern(tuple(tuple(reversed(piece)) for piece in reversed(self.pieces)))
        return backwards.without_prefix(value[::-1], longest)[::-1]

    def replace(self, value: str, replacement: str, every: bool, limit: int) -> str:
        """Return `value` with the first (or every) longest match replaced; raise `PatternError` beyond `limit` characters."""
        result: list[str] = []
        size = copied = start = 0
        while start <= len(value):
            if not _at(self.pieces[0], value, start):
                start += 1
                continue
            end = self._match(value, start, longest=True)
            if end is None:
                break  # a later piece is missing from here on, so it is missing for every later start
            if end > start or not result or copied < start:
                result += [value[copied:start], replacement]
                size += start - copied + len(replacement)
                copied = end
            if not every:
                break
            if size > limit:
                raise PatternError("the result is too long")
            start = max(end, start + 1)
        return "".join(result) + value[copied:]

    def _match(self, value: str, start: int, longest: bool) -> int | None:
        """Return where a match that begins at `start` ends, None if there is none."""
        first, rest = self.pieces[0], self.pieces[1:]
        if not _at(first, value, start):
            return None
        position = start + len(first)
        if not rest:
            return position
        for piece in rest[:-1]:
            found = _find(piece, value, position)
            if found is None:
                return None
            position = found + len(piece)
        found = _find_last(rest[-1], value, position) if longest else _find(rest[-1], value, position)
        return None if found is None else found + len(rest[-1])


def _at(piece: Piece, value: str, position: int) -> bool:
    if position + len(piece) > len(value):
        return False
    return all(wanted is None or wanted == value[position + offset] for offset, wanted in enumerate(piece))


def _find(piece: Piece, value: str, position: int) -> int | None:
    return next((at for at in range(position, len(value) - len(piece) + 1) if _at(piece, value, at)), None)


def _find_last(piece: Piece, value: str, position: int) -> int | None:
    return next(
        (at for at in range(len(value) - len(piece), position - 1, -1) if _at(piece, value, at)), None
    )
