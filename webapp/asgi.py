"""The ASGI application: static files, Django, websockets. Started by `webapp.server`."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings.server")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from webapp.core.routes import require_declared  # noqa: E402

require_declared()
application = django_application
