"""REST endpoints of volumes, below /api/v1/."""

from django.urls import path

from webapp.volumes import apis

urlpatterns = [
    path("volumes/", apis.VolumesView.as_view(), name="api-volumes"),
    path("volumes/<str:name>/", apis.VolumeView.as_view(), name="api-volume"),
    path("volumes/<str:name>/files/", apis.FilesView.as_view()),
    path("volumes/<str:name>/file/", apis.FileView.as_view()),
    path("volumes/<str:name>/backup/", apis.BackupView.as_view()),
    path("volumes/<str:name>/restore/", apis.RestoreView.as_view()),
    path("volumes/<str:name>/schedules/", apis.SchedulesView.as_view()),
    path("volumes/<str:name>/schedules/<int:pk>/", apis.ScheduleView.as_view()),
    path("backups/", apis.BackupsView.as_view()),
    path("backups/<str:pk>/", apis.BackupItemView.as_view()),
    path("backups/<str:pk>/file/", apis.BackupFileView.as_view()),
]
