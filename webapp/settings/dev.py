"""Work on the pages: no collected static files, errors shown."""

from webapp.settings.base import *  # noqa: F403
from webapp.settings.base import STORAGES

DEBUG = True
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
WHITENOISE_AUTOREFRESH = True
