"""REST endpoints of networks, below /api/v1/."""

from django.urls import path

from webapp.networks import apis

urlpatterns = [
    path("networks/", apis.NetworksView.as_view(), name="api-networks"),
    path("networks/probe/", apis.ProbeView.as_view()),
    path("networks/<str:ref>/", apis.NetworkView.as_view(), name="api-network"),
    path("networks/<str:ref>/connect/", apis.ConnectView.as_view()),
    path("networks/<str:ref>/disconnect/", apis.DisconnectView.as_view()),
]
