"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.audit import pages

urlpatterns = [
    path("audit/", pages.audit_book, name="audit"),
    path("audit/verify/", pages.audit_verify, name="audit_verify"),
    path("audit/recordings/", pages.recording_list, name="recordings"),
    path("audit/recordings/<str:pk>/", pages.recording, name="recording"),
]
