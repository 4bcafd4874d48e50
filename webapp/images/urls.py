"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.images import pages, protected_pages, verb_pages

urlpatterns = [
    path("images/", pages.image_list, name="images"),
    path("images/pull/", verb_pages.image_pull, name="image_pull"),
    path("images/search/", verb_pages.image_search, name="image_search"),
    path("images/load/", verb_pages.image_load, name="image_load"),
    path("images/import/", verb_pages.image_import, name="image_import"),
    path("images/prune/", verb_pages.image_prune, name="image_prune"),
    path("images/protected/", protected_pages.protected_names, name="protected_names"),
    path("images/protected/lift/", protected_pages.protection_lift, name="protection_lift"),
    path("images/<str:ref>/", pages.image_layers, name="image"),
    path("images/<str:ref>/config/", pages.image_config, name="image_config"),
    path("images/<str:ref>/tags/", pages.image_tags, name="image_tags"),
    path("images/<str:ref>/users/", pages.image_users, name="image_users"),
    path("images/<str:ref>/json/", pages.image_json, name="image_json"),
    path("images/<str:ref>/push/", verb_pages.image_push, name="image_push"),
    path("images/<str:ref>/tag/", verb_pages.image_tag, name="image_tag"),
    path("images/<str:ref>/untag/", verb_pages.image_untag, name="image_untag"),
    path("images/<str:ref>/remove/", verb_pages.image_remove, name="image_remove"),
]
