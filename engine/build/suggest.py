"""The word that somebody probably meant: the nearest of the allowed ones, by edit distance."""

from __future__ import annotations

from collections.abc import Iterable

MAX_DISTANCE = 2
_MAX_LENGTH = 64  # a longer word is no slip of the finger, and the distance costs the product of the lengths


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return the allowed word at most two edits away from `word` (case ignored), in its case; empty if none is."""
    lowered = word.lower()
    best, best_distance = "", MAX_DISTANCE + 1
    if len(word) > _MAX_LENGTH:
        return ""
    for option in allowed:
        if option.lower() == lowered:
            return ""
        distance = edit_distance(lowered, option.lower())
        if distance < best_distance:
            best, best_distance = option, distance
    if not best:
        return ""
    return best.lower() if word == lowered else best.upper() if word == word.upper() else best


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return the hint `did you mean X?`, or nothing."""
    found = nearest(word, allowed)
    return f"did you mean {found}?" if found else ""


def edit_distance(left: str, right: str) -> int:
    """Return how many insertions, deletions and replacements turn `left` into `right` (Levenshtein)."""
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, 1):
        current = [row]
        for column, b in enumerate(right, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b)))
        previous = current
    return previous[-1]
