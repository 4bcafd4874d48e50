"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.registries import pages

urlpatterns = [
    path("registries/", pages.registry_list, name="registries"),
    path("registries/new/", pages.registry_new, name="registry_new"),
    path("registries/<str:host>/edit/", pages.registry_edit, name="registry_edit"),
    path("registries/<str:host>/remove/", pages.registry_remove, name="registry_remove"),
]
