"""All routes. Each app has its pages in `urls` and its REST endpoints in `api_urls`."""

from django.urls import include, path

APPS = (
    "core", "api", "accounts", "audit", "nodes", "operations", "containers", "images", "builds", "networks", "volumes",
    "registries", "realtime",
)  # fmt: skip

urlpatterns = [
    *(path("api/v1/", include(f"webapp.{app}.api_urls")) for app in APPS),
    *(path("", include(f"webapp.{app}.urls")) for app in APPS),
]

handler400 = "webapp.core.errors.bad_request"
handler403 = "webapp.core.errors.permission_denied"
handler404 = "webapp.core.errors.not_found"
handler500 = "webapp.core.errors.server_error"
