"""Every route says who may use it. One that does not keeps the server from starting (`undeclared`).

A page view is decorated, a REST view is a class with `permissions`; both end in `view.wf_route`, which
`accounts.middleware.GuardMiddleware` judges before the view is called.

    @page(Permission.VIEW)                                     # GET and HEAD
    @page(GET=Permission.VIEW, POST=Permission.OPERATE)        # a method not named is answered with 405
    @page(POST=Permission.OPERATE, upload=True)                # a large body is accepted, spooled to disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from webapp.accounts.permissions import Permission

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Route:
    """Method to permission; `upload`: the body may be large and is spooled, judged before it is read."""

    permissions: dict[str, Permission] = field(default_factory=dict)
    upload: bool = False

    def permission_for(self, method: str | None) -> Permission | None:
        """Return the permission that `method` needs; None: no such method here."""
        return self.permissions.get("GET" if method == "HEAD" else (method or ""))


def page(
    view_permission: Permission | None = None, *, upload: bool = False, **by_method: Permission
) -> Callable[[View], View]:
    """Declare who may use a page's view (see the module's examples)."""
    permissions = dict(by_method)
    if view_permission is not None:
        permissions["GET"] = view_permission

    def declare(view: View) -> View:
        view.wf_route = Route(permissions, upload)  # type: ignore[attr-defined]
        return view

    return declare


def route_of(view: Callable[..., Any]) -> Route | None:
    return getattr(view, "wf_route", None)


def all_routes(urlconf: str | None = None) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the path pattern and the view of every route there is."""
    yield from _walk(get_resolver(urlconf).url_patterns, "/")


def _walk(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, path)
        else:
            yield path, pattern.callback


def require_declared(urlconf: str | None = None) -> None:
    """Raise `ImproperlyConfigured` naming the routes that do not say who may use them."""
    bare = sorted(
        path for path, view in all_routes(urlconf) if route_of(view) is None or not route_of(view).permissions
    )  # type: ignore[union-attr]
    if bare:
        raise ImproperlyConfigured(f"routes without a declared permission: {', '.join(bare)}")
