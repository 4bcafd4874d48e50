"""REST endpoints of operations, below /api/v1/."""

from django.urls import path

from webapp.operations import apis

urlpatterns = [
    path("operations/", apis.OperationsView.as_view(), name="api-operations"),
    path("operations/<str:ref>/", apis.OperationView.as_view(), name="api-operation"),
    path("operations/<str:ref>/cancel/", apis.CancelView.as_view()),
    path("operations/<str:ref>/retry/", apis.RetryView.as_view()),
    path("operations/<str:ref>/log/", apis.OperationLogView.as_view()),
]
