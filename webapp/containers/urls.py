"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.containers import pages

urlpatterns = [
    path("containers/", pages.container_list, name="containers"),
    path("containers/rows/", pages.container_rows, name="container_rows"),
    path("applications/<path:name>/", pages.application, name="application"),
    path("containers/<str:ref>/", pages.container_logs, name="container"),
    path("containers/<str:ref>/terminal/", pages.container_terminal, name="container_terminal"),
    path("containers/<str:ref>/timeline/", pages.container_timeline, name="container_timeline"),
    path("containers/<str:ref>/load/", pages.container_load, name="container_load"),
    path("containers/<str:ref>/files/", pages.container_files, name="container_files"),
    path("containers/<str:ref>/processes/", pages.container_processes, name="container_processes"),
    path("containers/<str:ref>/changes/", pages.container_changes, name="container_changes"),
    path("containers/<str:ref>/details/", pages.container_details, name="container_details"),
    path("containers/<str:ref>/json/", pages.container_json, name="container_json"),
]
