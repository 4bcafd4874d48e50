"""The API's own description, below /api/v1/."""

from django.urls import path

from webapp.api import apis

urlpatterns = [
    path("schema/", apis.SchemaView.as_view(), name="api-schema"),
    path("docs/", apis.docs_page, name="api-docs"),
    path("health/", apis.HealthView.as_view(), name="api-health"),
]
