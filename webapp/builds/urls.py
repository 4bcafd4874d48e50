"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.builds import pages

urlpatterns = [
    path("builds/", pages.build_list, name="builds"),
    path("builds/new/", pages.build_new, name="build_new"),
    path("builds/check/", pages.build_check, name="build_check"),
    path("builds/<str:ref>/", pages.build, name="build"),
    path("builds/<str:ref>/again/", pages.build_again, name="build_again"),
    path("builds/<str:ref>/compare/<str:other>/", pages.build_compare, name="build_compare"),
]
