"""Pages of this app, at the root of the site."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
