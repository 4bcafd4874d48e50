"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.operations import pages

urlpatterns = [
    path("operations/", pages.operation_list, name="operations"),
    path("operations/<str:ref>/", pages.operation, name="operation"),
    path("operations/<str:ref>/cancel/", pages.operation_cancel, name="operation_cancel"),
    path("operations/<str:ref>/retry/", pages.operation_retry, name="operation_retry"),
]
