"""REST endpoints of registry accounts, below /api/v1/."""

from django.urls import path

from webapp.registries import apis

urlpatterns = [
    path("registries/", apis.RegistriesView.as_view(), name="api-registries"),
    path("registries/<str:host>/", apis.RegistryView.as_view(), name="api-registry"),
]
