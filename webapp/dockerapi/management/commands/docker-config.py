"""`manage.py docker-config USER [--scope S] [--days N]`: print a configuration for the `docker` command.

What is printed is a `config.json` with a new token of USER in `HttpHeaders`; docker sends
those headers with every call. Keep it in a folder of its own, so that the token goes to this engine alone:

    mkdir -m 700 ~/.docker-wharfinger
    script/manage docker-config anna > ~/.docker-wharfinger/config.json
    DOCKER_CONFIG=~/.docker-wharfinger DOCKER_HOST=tcp://127.0.0.1:8000 docker ps
"""

import json
import os
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from webapp.accounts import selectors, services
from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Scope
from webapp.audit.models import Face
from webapp.core.errors import AppError


class Command(BaseCommand):
    help = "Print a config.json with which the docker command speaks to this server as USER"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--name", default="docker command", help="what the token is called in the list")
        parser.add_argument("--scope", default=Scope.OPERATE, choices=Scope.values, help="at most this")
        parser.add_argument(
            "--days", type=float, default=0, help="expires after so many days (default: never)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            secret = self._token(options)
        except AppError as error:
            raise CommandError(error.detail) from error
        self.stdout.write(json.dumps({"HttpHeaders": {"Authorization": f"Bearer {secret}"}}, indent=2))
        host, port = (
            os.environ.get("WHARFINGER_HOST", "127.0.0.1"),
            os.environ.get("WHARFINGER_PORT") or "8000",
        )
        self.stderr.write("Keep this as config.json in a folder that only you can read, then:")
        self.stderr.write(f"  export DOCKER_CONFIG=that-folder DOCKER_HOST=tcp://{host}:{port}")

    def _token(self, options: dict[str, Any]) -> str:
        user = selectors.user_get(options["user"])
        ends = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        actor = Actor(user=user, face=Face.COMMAND)
        _, secret = services.token_create(
            actor, name=options["name"], scope=options["scope"], expires_at=ends
        )
        return str(secret)
