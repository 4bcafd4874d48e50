"""Tests: everything in a folder of its own that goes with the process, no Redis, no node."""

import atexit
import os
import shutil
import tempfile

_FOLDER = tempfile.mkdtemp(prefix="wharfinger-test-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_URL = os.environ.get("WHARFINGER_TEST_DATABASE_URL", "")
os.environ["WHARFINGER_HOME"] = _FOLDER
os.environ["DATABASE_URL"] = _URL

from webapp.settings.base import *  # noqa: E402, F403
from webapp.settings.base import DATABASES, STORAGES, WHARFINGER_HOME  # noqa: E402

if not _URL:
    DATABASES["default"]["TEST"] = {"NAME": str(WHARFINGER_HOME / "web" / "test.sqlite3")}
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
STATIC_ROOT = WHARFINGER_HOME / "static"  # nothing is collected: files come from the checkout
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
OPERATION_SENDER = "webapp.operations.sender.RecordingSender"
REDIS_URL = ""  # no Redis: realtime uses its in-process hub
LOGGING = {"version": 1, "disable_existing_loggers": False}
