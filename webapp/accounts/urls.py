"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.accounts import pages

urlpatterns = [
    path("login/", pages.login, name="login"),
    path("logout/", pages.logout, name="logout"),
]
