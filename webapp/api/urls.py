"""The supervisor's and load balancers' question."""

from django.urls import path

from webapp.api import apis

urlpatterns = [path("healthz", apis.HealthView.as_view())]
