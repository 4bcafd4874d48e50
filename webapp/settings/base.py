"""Settings that hold everywhere. What differs between machines comes from the environment.

`WHARFINGER_HOME` (where everything lies), `DATABASE_URL` and `REDIS_URL` (replace the embedded SQLite and Redis),
`WHARFINGER_ALLOWED_HOSTS` (comma separated, besides this machine's own names), `WHARFINGER_TRUSTED_PROXIES`
(addresses whose X-Forwarded-For and X-Forwarded-Proto are believed), `WHARFINGER_HTTPS` (cookies only over TLS),
`WHARFINGER_TLS` (this server speaks TLS itself; cookies only over TLS).
"""

import os
import socket
from pathlib import Path

import dj_database_url

from webapp.core.keys import read_or_make_key

BASE_DIR = Path(__file__).resolve().parent.parent.parent
WHARFINGER_HOME = Path(os.environ.get("WHARFINGER_HOME") or "/var/lib/wharfinger").resolve()
WEB_HOME = WHARFINGER_HOME / "web"  # the web account's own: database, keys, recordings
SPOOL = WHARFINGER_HOME / "spool"  # shared with the node: `in` is written by web, `out` by the node
KEYS = WEB_HOME / "keys"  # outside the database on purpose: a stolen database alone opens nothing

SECRET_KEY = read_or_make_key(KEYS / "django")
DEBUG = False

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "django_htmx",
    "webapp.core",
    "webapp.api",
    "webapp.accounts",
    "webapp.audit",
    "webapp.nodes",
    "webapp.operations",
    "webapp.containers",
    "webapp.images",
    "webapp.builds",
    "webapp.networks",
    "webapp.volumes",
    "webapp.registries",
    "webapp.realtime",
    "webapp.dockerapi",
]

MIDDLEWARE = [
    "webapp.core.middleware.SecurityHeadersMiddleware",
    "webapp.core.later.LaterMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.accounts.middleware.ActorMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "webapp.accounts.middleware.GuardMiddleware",
]

ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.core.context.wharfinger",
            ]
        },
    }
]

# --- database -------------------------------------------------------------------------------------------------

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",  # take the write lock at BEGIN: no deadlock between a read and its write
    "timeout": 10,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=10000; PRAGMA cache_size=-16000;",
}


def database(url: str) -> dict:
    """Return Django's description of the database at `url`; empty means the embedded SQLite.

    Each thread keeps its connection: opening SQLite means reading the whole schema, a millisecond for every request.
    """
    kept = {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": WEB_HOME / "wharfinger.sqlite3",
            "OPTIONS": dict(SQLITE_OPTIONS),
            **kept,
        }
    parsed = {**dj_database_url.parse(url), **kept}
    if parsed["ENGINE"].endswith("sqlite3"):
        parsed["OPTIONS"] = dict(SQLITE_OPTIONS)
    return parsed


DATABASES = {"default": database(os.environ.get("DATABASE_URL", ""))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Redis ----------------------------------------------------------------------------------------------------

REDIS_URL = os.environ.get("REDIS_URL") or f"unix://{WHARFINGER_HOME}/redis/redis.sock"

# --- people ---------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.BaseBackend"
]  # people sign in through accounts.services only
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
HAS_TLS = bool(os.environ.get("WHARFINGER_TLS"))
TLS_BELIEVED = WEB_HOME / "tls-ca.pem"  # what clients of this server must believe; there while it speaks TLS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HAS_TLS or bool(
    os.environ.get("WHARFINGER_HTTPS")
)  # behind a proxy that speaks TLS
SESSION_COOKIE_AGE = 12 * 3600
SESSION_SAVE_EVERY_REQUEST = False
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME = "wharfinger_session"
CSRF_COOKIE_NAME = "wharfinger_csrf"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "webapp.core.errors.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# --- the wire -------------------------------------------------------------------------------------------------


def own_names() -> list[str]:
    """Return the names under which this machine may be addressed (a foreign Host header is refused: DNS rebinding)."""
    named = [
        name.strip() for name in os.environ.get("WHARFINGER_ALLOWED_HOSTS", "").split(",") if name.strip()
    ]
    return ["localhost", "127.0.0.1", "[::1]", socket.gethostname(), *named]


ALLOWED_HOSTS = own_names()
TRUSTED_PROXIES = [
    part.strip() for part in os.environ.get("WHARFINGER_TRUSTED_PROXIES", "").split(",") if part.strip()
]
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
APPEND_SLASH = True

MAX_BODY_BYTES = 4 * 1024 * 1024  # of a request that is not an upload
MAX_UPLOAD_BYTES = int(os.environ.get("WHARFINGER_MAX_UPLOAD_BYTES") or 64 * 1024**3)
MAX_UPLOADS_AT_ONCE = 32
MIN_FREE_BYTES = (
    64 * 1024**2
)  # the spool's disk keeps this much: records and removals still work on a full disk
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000
DATA_UPLOAD_MAX_NUMBER_FILES = 20
FILE_UPLOAD_HANDLERS = ["webapp.core.uploads.SpoolUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

# --- REST -----------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["webapp.api.authentication.ActorAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [],  # judged before the view, by accounts.middleware.GuardMiddleware
    "DEFAULT_PARSER_CLASSES": ["webapp.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["webapp.api.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "webapp.api.schema.WharfingerSchema",
    "EXCEPTION_HANDLER": "webapp.api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_VERSIONING_CLASS": None,
    "URL_FORMAT_OVERRIDE": None,
    "DATETIME_FORMAT": "iso-8601",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Wharfinger",
    "VERSION": "1",
    "DESCRIPTION": "Containers, images, builds, networks and volumes of your team, and the book of who did what.",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "SORT_OPERATIONS": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "APPEND_COMPONENTS": {
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    },
    "SECURITY": [{"bearer": []}],
}

# --- files, words, logs ---------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_IMMUTABLE_FILE_TEST = r"/static/dist/.+-[0-9A-Z]{8}\.\w+$"  # esbuild puts the hash into the name
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("WHARFINGER_LOG_LEVEL", "INFO")},
    "loggers": {"django.request": {"level": "ERROR"}, "httpx": {"level": "WARNING"}},
}

# --- operations -----------------------------------------------------------------------------------------------

OPERATION_SENDER = "webapp.operations.sender.CelerySender"  # tests put a recording one here
WAIT_MAX_S = 300
EVENTS_KEPT = 200_000
MAX_ACTIVE_OPERATIONS_A_USER = 300  # one person does not fill the queues of all
