"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.containers import kept_log_pages, list_pages, pages, run_pages, verb_pages

PROJECT_VERBS = ("start", "stop", "restart")

urlpatterns = [
    path("containers/", list_pages.container_list, name="containers"),
    path("containers/rows/", list_pages.container_rows, name="container_rows"),
    path("containers/run/", run_pages.run, name="container_run"),
    path("containers/bulk/", verb_pages.container_bulk, name="container_bulk"),
    path("containers/remove/", verb_pages.container_remove, name="containers_remove"),
    path("containers/prune/", verb_pages.container_prune, name="container_prune"),
    path("containers/kept-logs/", kept_log_pages.kept_logs, name="kept_logs"),
    path("containers/kept-logs/<str:ref>/remove/", kept_log_pages.kept_log_removal, name="kept_log_remove"),
    path("applications/<str:name>/", list_pages.application, name="application"),
    path("containers/<str:ref>/", pages.container_logs, name="container"),
    path("containers/<str:ref>/terminal/", pages.container_terminal, name="container_terminal"),
    path("containers/<str:ref>/timeline/", pages.container_timeline, name="container_timeline"),
    path("containers/<str:ref>/load/", pages.container_load, name="container_load"),
    path("containers/<str:ref>/files/", pages.container_files, name="container_files"),
    path("containers/<str:ref>/files/upload/", verb_pages.container_upload, name="container_upload"),
    path("containers/<str:ref>/processes/", pages.container_processes, name="container_processes"),
    path("containers/<str:ref>/changes/", pages.container_changes, name="container_changes"),
    path("containers/<str:ref>/details/", pages.container_details, name="container_details"),
    path("containers/<str:ref>/json/", pages.container_json, name="container_json"),
    path("containers/<str:ref>/remove/", verb_pages.container_remove, name="container_remove"),
    path("containers/<str:ref>/rename/", verb_pages.container_rename, name="container_rename"),
    path("containers/<str:ref>/kill/", verb_pages.container_kill, name="container_kill"),
    path("containers/<str:ref>/update/", verb_pages.container_update, name="container_update"),
    path("containers/<str:ref>/commit/", verb_pages.container_commit, name="container_commit"),
    *(
        path(
            f"containers/<str:ref>/{verb}/",
            verb_pages.container_verb,
            {"verb": verb},
            name=f"container_{verb}",
        )
        for verb in verb_pages.VERBS
    ),
    *(
        path(
            f"applications/<str:name>/{verb}/",
            verb_pages.application_verb,
            {"verb": verb},
            name=f"application_{verb}",
        )
        for verb in PROJECT_VERBS
    ),
]
