"""REST endpoints of images, below /api/v1/. Fixed words come first: no image is addressed by them."""

from django.urls import path, register_converter

from webapp.core.refs import RefConverter
from webapp.images import apis

register_converter(RefConverter, "ref")

urlpatterns = [
    path("images/", apis.ImagesView.as_view(), name="api-images"),
    path("images/pull/", apis.PullView.as_view()),
    path("images/load/", apis.LoadView.as_view()),
    path("images/import/", apis.ImportView.as_view()),
    path("images/archive/", apis.ArchivesView.as_view()),
    path("images/protected/", apis.ProtectedView.as_view()),
    path("images/tags/", apis.RemoteTagsView.as_view()),
    path("images/search/", apis.SearchView.as_view()),
    path("images/<ref:ref>/history/", apis.HistoryView.as_view()),
    path("images/<ref:ref>/layers/", apis.LayersView.as_view()),
    path("images/<ref:ref>/layers/<int:index>/", apis.LayerFilesView.as_view()),
    path("images/<ref:ref>/push/", apis.PushView.as_view()),
    path("images/<ref:ref>/tag/", apis.TagView.as_view()),
    path("images/<ref:ref>/archive/", apis.ArchiveView.as_view()),
    path("images/<ref:ref>/", apis.ImageView.as_view(), name="api-image"),
]
