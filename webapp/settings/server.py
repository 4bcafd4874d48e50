"""The installed server."""

from webapp.settings.base import *  # noqa: F403
