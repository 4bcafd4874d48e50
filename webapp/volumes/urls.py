"""Pages of this app, at the root of the site."""

from django.urls import path

from webapp.volumes import pages

urlpatterns = [
    path("backups/", pages.backup_list, name="backups"),
    path("backups/<str:pk>/remove/", pages.backup_remove, name="backup_remove"),
    path("volumes/", pages.volume_list, name="volumes"),
    path("volumes/new/", pages.volume_new, name="volume_new"),
    path("volumes/prune/", pages.volume_prune, name="volume_prune"),
    path("volumes/<str:name>/", pages.volume, name="volume"),
    path("volumes/<str:name>/backup/", pages.volume_backup, name="volume_backup"),
    path("volumes/<str:name>/backup/folder/", pages.volume_backup_folder, name="volume_backup_folder"),
    path("volumes/<str:name>/restore/", pages.volume_restore, name="volume_restore"),
    path("volumes/<str:name>/remove/", pages.volume_remove, name="volume_remove"),
    path("volumes/<str:name>/schedules/", pages.schedule_new, name="schedule_new"),
    path("volumes/<str:name>/schedules/<int:pk>/remove/", pages.schedule_remove, name="schedule_remove"),
]
