"""The parts that pages are made of: icons, states, times, sizes, ids, bars, the equal call.

Times and sizes are said in the same words as `static/js/times.js` says them. Everything that came from outside is
escaped here; nothing is marked safe that was not built by `format_html`.
"""

from __future__ import annotations

import datetime
import json
import re
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.templatetags.static import static
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from webapp.core import states

register = template.Library()

MANIFEST = Path("dist") / "manifest.json"
UNITS = ("KB", "MB", "GB", "TB", "PB")
STEPS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


# --- bundles and icons ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _collected() -> dict[str, str] | None:
    """Return the manifest beside the collected files, as it was when this process began: it serves those files only."""
    path = Path(settings.STATIC_ROOT) / MANIFEST
    return None if settings.DEBUG or not path.is_file() else json.loads(path.read_text())


@lru_cache(maxsize=1)
def _built(path: Path, written_ns: int) -> dict[str, str]:
    return json.loads(path.read_text())


def manifest() -> dict[str, str]:
    """Return bundle name → path below static. Empty before the first `npm run build`."""
    collected = _collected()
    if collected is not None:
        return collected
    path = Path(settings.BASE_DIR) / "static" / MANIFEST
    try:
        return _built(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return {}


@register.simple_tag
def bundle(name: str) -> str:
    """Return the address of a bundle that `npm run build` made."""
    return static(manifest().get(name, f"dist/{name}"))


@register.simple_tag
def icon(name: str) -> SafeString:
    """Return the 16 px icon `name` of the sprite; it is decoration, so name what it stands for beside it."""
    return _use(f"i-{name}", "wf-i")


@register.simple_tag
def glyph(name: str, tone: str = "") -> SafeString:
    """Return the 12 px glyph of a state, in the ink of `tone` where one is given."""
    drawn = _use(f"g-{name}", "wf-g wf-spin" if name == "creating" else "wf-g")
    return format_html('<span class="wf-tone-{}">{}</span>', tone, drawn) if tone else drawn


def _use(name: str, css: str) -> SafeString:
    return format_html(
        '<svg class="{}" aria-hidden="true"><use href="{}#{}"/></svg>', css, bundle("sprite.svg"), name
    )


# --- states ---------------------------------------------------------------------------------------------------


@register.simple_tag
def state(kind: str, words: str, glyph_name: str = "", pill: bool = False) -> SafeString:
    """Return a state: `kind` is a container's state (see `core.states`) or a meaning (ok, fail, warn, work, hold, rest)."""
    attribute = "data-tone" if kind in states.TONES else "data-state"
    drawn = _use(
        f"g-{glyph_name or states.GLYPHS.get(kind, kind)}",
        "wf-g wf-spin" if kind in ("creating", "work") else "wf-g",
    )
    return format_html(
        '<span class="wf-state" {}="{}"{}>{}{}</span>',
        mark_safe(attribute),
        kind,
        mark_safe(" data-pill" if pill else ""),
        drawn,
        words,
    )


@register.simple_tag
def container_state(container: Any, pill: bool = False) -> SafeString:  # any object with a container's fields
    """Return what a container is, in one or two words."""
    shown = states.of_container(container)
    return state(shown.kind, shown.words, pill=pill)


@register.simple_tag
def operation_state(operation: Any, pill: bool = False) -> SafeString:
    shown = states.of_operation(operation)
    return state(shown.kind, shown.words, shown.glyph, pill=pill)


@register.simple_tag
def outcome_state(outcome: str) -> SafeString:
    """Return how an entry of the audit book ended."""
    shown = states.of_outcome(outcome)
    return state(shown.kind, shown.words, shown.glyph)


# --- amounts --------------------------------------------------------------------------------------------------


def size_text(amount: float | None) -> str:
    """Return bytes as people read them: `0 B`, `4.1 KB`, `187 MB` (decimal, as disks and registries count)."""
    if amount is None:
        return "–"
    if abs(amount) < 1000:
        return f"{int(amount)} B"
    value = float(amount)
    for unit in UNITS:
        value /= 1000
        if abs(value) < 999.5 or unit == UNITS[-1]:
            break
    return f"{value:.1f} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"


@register.filter
def size(amount: float | None) -> SafeString | str:
    """Return a size with the exact bytes on hover."""
    if amount is None or amount == "":
        return "–"
    return format_html(
        '<span class="wf-num" title="{} bytes">{}</span>', f"{int(amount):,}", size_text(float(amount))
    )


@register.filter
def size_plain(amount: float | None) -> str:
    return size_text(amount)


def memory_text(amount: float) -> str:
    """Return memory in binary units, as its limits are given: `512 MiB`, `1.5 GiB`."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.5 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 9.95 and value % 1 else f"{value:.0f} {unit}"


@register.filter
def memory(amount: float | None) -> SafeString | str:
    """Return an amount of memory with the exact bytes on hover."""
    if not amount:
        return "–"
    return format_html(
        '<span class="wf-num" title="{} bytes">{}</span>', f"{int(amount):,}", memory_text(amount)
    )


@register.filter
def count(amount: float | None) -> str:
    """Return a number with its thousands parted."""
    return "–" if amount is None or amount == "" else f"{int(amount):,}"


@register.filter
def plural(amount: int, words: str) -> str:
    """`{{ n|plural:"container,containers" }}` → `1 container`."""
    one, many = words.split(",")
    return f"{int(amount or 0):,} {one if amount == 1 else many}"


@register.simple_tag
def bar(*parts: Any, total: float = 0, large: bool = False) -> SafeString:
    """Return a bar of pairs `amount tone amount tone …` against `total` (0: their sum). Widths are SVG attributes."""
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    return draw_bar([(float(amount or 0), tone) for amount, tone in pairs], float(total or 0), large=large)


def draw_bar(pairs: Iterable[tuple[float, Any]], total: float = 0, *, large: bool = False) -> SafeString:
    pairs = list(pairs)
    whole = total or sum(amount for amount, _ in pairs) or 1
    at, rects = 0.0, []
    for amount, tone in pairs:
        width = max(0.0, min(100.0 - at, 100 * amount / whole))
        if amount and width:
            width = max(width, 0.6)
        rects.append((f"{at:.2f}%", f"{width:.2f}%", tone))
        at += width
    inner = format_html_join("", '<rect x="{}" width="{}" height="100%" data-c="{}"/>', rects)
    return format_html(
        '<svg class="wf-bar" {}aria-hidden="true">{}</svg>',
        mark_safe('data-size="l" ' if large else ""),
        inner,
    )


@register.simple_tag
def census_bar(segments: Iterable[dict[str, Any]]) -> SafeString:
    """Return the strip that says all states at once: `segments` have `count` and `tone`; small gaps part them."""
    shown = [segment for segment in segments if segment["count"]]
    whole = sum(segment["count"] for segment in shown) or 1
    room = 100.0 - 0.4 * max(0, len(shown) - 1)
    at, rects = 0.0, []
    for segment in shown:
        width = room * segment["count"] / whole
        rects.append((f"{at:.2f}%", f"{width:.2f}%", segment["tone"]))
        at += width + 0.4
    inner = format_html_join("", '<rect x="{}" width="{}" height="100%" data-c="{}"/>', rects)
    return format_html('<svg class="wf-census-bar" aria-hidden="true">{}</svg>', inner)


@register.filter
def percent_of(amount: float | None, whole: float | None) -> str:
    """Return `amount` of `whole` as an SVG width."""
    if not amount or not whole:
        return "0%"
    return f"{max(0.0, min(100.0, 100 * float(amount) / float(whole))):.1f}%"


# --- times ----------------------------------------------------------------------------------------------------


def span_text(seconds: float) -> str:
    """Return how long, in the largest whole unit: `9 s`, `22 min`, `3 d`."""
    whole = max(0, int(seconds))
    for length, unit in STEPS:
        if whole >= length:
            return f"{whole // length} {unit}"
    return "0 s"


def long_span_text(seconds: float) -> str:
    """Return how long something took: `340 ms`, `2.1 s`, `1 min 12 s`, `2 h 5 min`."""
    if seconds < 0:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return span_text(whole)


def as_datetime(
    value: Any,
) -> datetime.datetime | None:  # what records hold: datetimes, epoch seconds or ISO texts
    """Return an aware datetime for what records hold; None where there is no time (0 and empty mean never)."""
    if not value:
        return None
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, int | float):
        seconds = value / 1e9 if value > 1e14 else value
        return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    parsed = parse_datetime(str(value))
    if parsed is not None and timezone.is_naive(parsed):
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return parsed


def _time(value: Any, kind: str, words: str) -> SafeString:
    moment = as_datetime(value)
    if moment is None:
        return mark_safe("")
    exact = moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_html(
        '<time class="wf-num" datetime="{}" title="{}"{}>{}</time>',
        moment.isoformat(),
        exact,
        format_html(' data-when="{}"', kind) if kind else "",
        words,
    )


@register.filter
def ago(value: Any) -> SafeString:
    """Return `22 min ago`, with the exact time on hover, kept true by the page's script."""
    moment = as_datetime(value)
    if moment is None:
        return mark_safe("")
    seconds = (timezone.now() - moment).total_seconds()
    return _time(moment, "ago", "now" if seconds < 1 else f"{span_text(seconds)} ago")


@register.filter
def since(value: Any) -> SafeString:
    """Return how long since then: `22 min`."""
    moment = as_datetime(value)
    return (
        _time(moment, "since", span_text((timezone.now() - moment).total_seconds()))
        if moment
        else mark_safe("")
    )


@register.filter
def running_for(value: Any) -> SafeString:
    moment = as_datetime(value)
    return (
        _time(moment, "run", long_span_text((timezone.now() - moment).total_seconds()))
        if moment
        else mark_safe("")
    )


@register.filter
def clock(value: Any) -> SafeString:
    """Return the time of day, with the date on hover."""
    moment = as_datetime(value)
    return (
        _time(moment, "", moment.astimezone(datetime.UTC).strftime("%H:%M:%S")) if moment else mark_safe("")
    )


@register.filter
def day_and_time(value: Any) -> SafeString:
    moment = as_datetime(value)
    return (
        _time(moment, "", moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M"))
        if moment
        else mark_safe("")
    )


@register.filter
def until(value: Any) -> SafeString:
    """Return how long until then: `in 3 d`."""
    moment = as_datetime(value)
    return (
        _time(moment, "", f"in {span_text((moment - timezone.now()).total_seconds())}")
        if moment
        else mark_safe("")
    )


@register.filter
def took(seconds: float | None) -> str:
    """Return a duration in seconds as words."""
    return "" if seconds is None or seconds == "" else long_span_text(float(seconds))


@register.simple_tag
def between(start: Any, end: Any) -> str:
    """Return how long from `start` to `end`; empty where one of them is missing."""
    first, last = as_datetime(start), as_datetime(end)
    return long_span_text((last - first).total_seconds()) if first and last else ""


# --- names, ids, people ---------------------------------------------------------------------------------------


@register.filter
def short(identifier: str | None) -> str:
    """Return the part of an id that people read."""
    return str(identifier or "").removeprefix("sha256:")[:12]


@register.simple_tag
def copy_id(identifier: str, what: str = "id") -> SafeString:
    """Return a short id with a button that copies the whole one."""
    return format_html(
        '<span class="wf-id" title="{0}">{1} <button class="wf-copy" type="button" data-copy="{0}" aria-label="Copy the whole {2}" '
        'title="Copy the whole {2}">{3}</button></span>',
        identifier,
        short(identifier),
        what,
        icon("copy"),
    )


@register.simple_tag
def avatar(name: str, kind: str = "person") -> SafeString:
    """Return the round (person) or square (token, robot) mark of who did something."""
    letters = re.sub(r"[^A-Za-z0-9]", "", name)[:2].upper() or "–"
    square = mark_safe(' data-kind="token"') if kind != "person" else ""
    return format_html(
        '<span class="wf-avatar" data-size="s"{} title="{}">{}</span>', square, name or "nobody", letters
    )


@register.filter
def image_name(name: str) -> str:
    """Return an image's name without the registry that goes without saying."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


@register.filter
def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


@register.filter
def shell_words(words: Any) -> str:
    """Return a command as one would type it."""
    import shlex

    if not words:
        return ""
    return words if isinstance(words, str) else shlex.join(str(word) for word in words)


@register.filter
def split(words: str) -> list[str]:
    """`{{ "MB GB"|split }}`: the words of a text."""
    return words.split()


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """`{{ mapping|get:key }}` for keys that are no identifiers."""
    return mapping.get(key, "") if hasattr(mapping, "get") else ""


# --- addresses ------------------------------------------------------------------------------------------------


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: Any) -> str:
    """Return this page's query with some parts changed; an empty value takes a part away. Starts anew at page one."""
    parts = context["request"].GET.copy()
    parts.pop("after", None)
    parts.update({}) if not changes else None
    for name, value in changes.items():
        parts.pop(name, None)
        if value not in ("", None):
            parts[name] = value
    encoded = parts.urlencode()
    return f"?{encoded}" if encoded else context["request"].path


@register.inclusion_tag("core/_same.html", takes_context=True)
def same(
    context: template.Context,
    path: str = "",
    docker: str = "",
    method: str = "GET",
    body: Any = None,
    title: str = "This page as a call",
    form: str = "",
) -> dict[str, Any]:
    """Show the call that does the same as the page: over REST, and with docker where docker can do it."""
    request = context["request"]
    base = f"{request.scheme}://{request.get_host()}"
    lines = ['curl -H "Authorization: Bearer $TOKEN"']
    if method != "GET":
        lines[0] += f" -X {method}" if body is None and not form else ""
    if form:
        lines.append(form)
    if body is not None:
        lines.append("--json '" + json.dumps(body, ensure_ascii=False).replace("'", "'\\''") + "'")
    lines.append(f'"{base}{path}"')
    curl = " ".join(lines) if sum(map(len, lines)) < 110 else " \\\n  ".join(lines)
    return {
        "curl": curl if path else "",
        "docker": docker,
        "title": title,
        "key": f"call-{zlib.crc32(f'{path} {docker} {title}'.encode()):08x}",
    }
