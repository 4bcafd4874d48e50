"""REST endpoints of the book, below /api/v1/."""

from django.urls import path

from webapp.audit import apis

urlpatterns = [
    path("audit/", apis.AuditView.as_view(), name="api-audit"),
    path("audit/verify/", apis.VerifyView.as_view()),
    path("audit/<int:seq>/", apis.EntryView.as_view()),
    path("recordings/<str:pk>/", apis.RecordingView.as_view(), name="api-recording"),
]
