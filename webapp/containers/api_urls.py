"""REST endpoints of containers, below /api/v1/."""

from django.urls import path

from webapp.containers import apis, kept_log_apis

urlpatterns = [
    path("kept-logs/", kept_log_apis.KeptLogsView.as_view()),
    path("kept-logs/<str:ref>/", kept_log_apis.KeptLogView.as_view()),
    path("containers/", apis.ContainersView.as_view(), name="api-containers"),
    path("containers/<str:ref>/", apis.ContainerView.as_view(), name="api-container"),
    path("containers/<str:ref>/start/", apis.StartView.as_view()),
    path("containers/<str:ref>/stop/", apis.StopView.as_view()),
    path("containers/<str:ref>/restart/", apis.RestartView.as_view()),
    path("containers/<str:ref>/kill/", apis.KillView.as_view()),
    path("containers/<str:ref>/pause/", apis.PauseView.as_view()),
    path("containers/<str:ref>/unpause/", apis.UnpauseView.as_view()),
    path("containers/<str:ref>/rename/", apis.RenameView.as_view()),
    path("containers/<str:ref>/update/", apis.UpdateView.as_view()),
    path("containers/<str:ref>/commit/", apis.CommitView.as_view()),
    path("containers/<str:ref>/exec/", apis.ExecView.as_view()),
    path("containers/<str:ref>/logs/", apis.LogsView.as_view()),
    path("containers/<str:ref>/stats/", apis.StatsView.as_view()),
    path("containers/<str:ref>/processes/", apis.ProcessesView.as_view()),
    path("containers/<str:ref>/changes/", apis.ChangesView.as_view()),
    path("containers/<str:ref>/timeline/", apis.TimelineView.as_view()),
    path("containers/<str:ref>/files/", apis.FilesView.as_view()),
    path("containers/<str:ref>/export/", apis.ExportView.as_view()),
]
