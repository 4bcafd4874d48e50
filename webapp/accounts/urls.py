"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.accounts import pages, people_pages

urlpatterns = [
    path("login/", pages.login, name="login"),
    path("logout/", pages.logout, name="logout"),
    path("people/", people_pages.people, name="people"),
    path("people/new/", people_pages.person_new, name="person_new"),
    path("people/<str:username>/", people_pages.person_edit, name="person_edit"),
    path("account/", people_pages.account, name="account"),
    path("account/password/", people_pages.password, name="password"),
    path("account/tokens/new/", people_pages.token_new, name="token_new"),
    path("account/tokens/<int:pk>/revoke/", people_pages.token_revoke, name="token_revoke"),
]
