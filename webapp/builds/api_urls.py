"""REST endpoints of builds, below /api/v1/."""

from django.urls import path

from webapp.builds import apis

urlpatterns = [
    path("builds/", apis.BuildsView.as_view(), name="api-builds"),
    path("builds/<str:ref>/", apis.BuildView.as_view(), name="api-build"),
    path("builds/<str:ref>/log/", apis.BuildLogView.as_view()),
]
