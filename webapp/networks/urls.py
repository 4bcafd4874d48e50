"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.networks import pages

urlpatterns = [
    path("networks/", pages.network_list, name="networks"),
    path("networks/new/", pages.network_new, name="network_new"),
    path("networks/prune/", pages.network_prune, name="network_prune"),
    path("networks/<str:ref>/", pages.network, name="network"),
    path("networks/<str:ref>/connect/", pages.network_connect, name="network_connect"),
    path(
        "networks/<str:ref>/disconnect/<str:container>/", pages.network_disconnect, name="network_disconnect"
    ),
    path("networks/<str:ref>/remove/", pages.network_remove, name="network_remove"),
]
