"""The colours of the pages: readable by WCAG AA in both themes, measured from tokens.css."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CSS_FOLDER = Path(__file__).resolve().parents[2] / "static" / "css"
CSS = (CSS_FOLDER / "tokens.css").read_text()
MEANINGS = ("ok", "fail", "warn", "work", "hold", "rest")
GROUNDS = ("surface", "bg", "sunken", "hover", "raised", "accent-soft")


def block(opening: str) -> dict[str, str]:
    """Return the colours that a block of tokens.css sets."""
    body = CSS[CSS.index(opening) + len(opening) :]
    body = re.sub(r"/\*.*?\*/", "", body[: body.index("}")], flags=re.S)
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", body))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ratio(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def pairs() -> Iterator[tuple[str, str, float]]:
    """Yield ink, ground and the contrast that they need: 4.5 for text, 3 for edges and glyphs."""
    for ink in ("text", "text-2", "text-3", "accent"):
        yield from ((ink, ground, 4.5) for ground in GROUNDS)
    yield from (("text", mark, 4.5) for mark in ("mark", "mark-now"))
    yield from (("on-accent", solid, 4.5) for solid in ("accent-solid", "accent-solid-hover", "fail-solid"))
    for meaning in MEANINGS:
        yield from ((f"{meaning}-ink", ground, 4.5) for ground in (f"{meaning}-soft", *GROUNDS))
        yield from ((ink, f"{meaning}-soft", 4.5) for ink in ("text", "text-2", "text-3", "accent"))
        yield f"{meaning}-fill", "surface", 3.0
    yield from (("field-line", ground, 3.0) for ground in ("surface", "raised"))
    yield from (
        (f"term-{tone}", "term-bg", 4.5)
        for tone in ("text", "dim", "red", "green", "yellow", "blue", "magenta", "cyan")
    )
    yield from ((f"term-{tone}", "term-bar", 4.5) for tone in ("text", "dim"))


LIGHT = block(":root {")
DARK = LIGHT | block('[data-theme="dark"] {')


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_pair_of_ink_and_ground_is_readable(theme: dict[str, str]) -> None:
    poor = {
        f"{ink} on {ground}": round(ratio(theme[ink], theme[ground]), 2)
        for ink, ground, need in pairs()
        if ratio(theme[ink], theme[ground]) < need
    }
    assert not poor


def test_the_two_dark_blocks_are_equal() -> None:
    system = LIGHT | block(':root:not([data-theme="light"]) {')
    assert system == DARK


def test_only_tokens_hold_literal_colours() -> None:
    for sheet in ("components.css", "pages.css"):
        text = re.sub(r"/\*.*?\*/", "", (CSS_FOLDER / sheet).read_text(), flags=re.S)
        found = re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)", text)
        assert not found, f"{sheet} holds {found}"
