"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.nodes import pages

urlpatterns = [
    path("nodes/", pages.node_list, name="nodes"),
    path("nodes/new/", pages.node_new, name="node_new"),
    path("nodes/<str:name>/", pages.node, name="node"),
    path("nodes/<str:name>/change/", pages.node_change, name="node_change"),
    path("system/", pages.system_page, name="system"),
    path("system/prune/", pages.system_prune, name="system_prune"),
    path("system/check/", pages.system_check, name="system_check"),
]
