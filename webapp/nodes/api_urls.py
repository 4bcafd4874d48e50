"""REST endpoints of nodes and the system, below /api/v1/."""

from django.urls import path

from webapp.nodes import apis

urlpatterns = [
    path("system/", apis.SystemView.as_view(), name="api-system"),
    path("system/usage/", apis.UsageView.as_view()),
    path("system/prune/", apis.PruneView.as_view()),
    path("system/check/", apis.CheckView.as_view()),
    path("system/repair/", apis.RepairView.as_view()),
    path("nodes/", apis.NodesView.as_view(), name="api-nodes"),
    path("nodes/<str:name>/", apis.NodeView.as_view(), name="api-node"),
    path("events/", apis.EventsView.as_view(), name="api-events"),
]
