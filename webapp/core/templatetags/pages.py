"""The frame around each page: navigation with its counts."""

from __future__ import annotations

from typing import Any

from django import template

from webapp.core import nav

register = template.Library()


@register.simple_tag(takes_context=True)
def nav_counts(context: template.Context) -> dict[str, Any]:
    """Return the figures beside the navigation's names: one query, asked once a request."""
    request = context["request"]
    if not hasattr(request, "wf_nav_counts"):
        request.wf_nav_counts = nav.counts() if request.actor.is_signed_in else {}
    return request.wf_nav_counts


def _is_current(context: template.Context, href: str) -> bool:
    path = context["request"].path
    return path == "/" if href == "/" else path.startswith(href)


@register.inclusion_tag("core/_nav_item.html", takes_context=True)
def nav_item(
    context: template.Context, href: str, icon_name: str, label: str, amount: int = 0, tone: str = ""
) -> dict[str, Any]:
    return {
        "href": href,
        "icon_name": icon_name,
        "label": label,
        "amount": amount,
        "tone": tone,
        "current": _is_current(context, href),
    }


@register.inclusion_tag("core/_bottom_item.html", takes_context=True)
def bottom_item(
    context: template.Context, href: str, icon_name: str, label: str, amount: int = 0
) -> dict[str, Any]:
    return {
        "href": href,
        "icon_name": icon_name,
        "label": label,
        "amount": amount,
        "current": _is_current(context, href),
    }
