"""REST endpoints of people and tokens, below /api/v1/."""

from django.urls import path

from webapp.accounts import apis

urlpatterns = [
    path("users/", apis.UsersView.as_view(), name="api-users"),
    path("users/me/", apis.MeView.as_view()),
    path("users/<str:username>/", apis.UserView.as_view(), name="api-user"),
    path("tokens/", apis.TokensView.as_view(), name="api-tokens"),
    path("tokens/<int:pk>/", apis.TokenView.as_view()),
]
