"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.core import pages

urlpatterns = [
    path("", pages.overview, name="overview"),
    path("nav/", pages.navigation, name="navigation"),
    path("keys/", pages.keys, name="keys"),
    path("search/", pages.search, name="search"),
]
