"""`manage.py token create USER [--name N] [--scope S]`: print a new token, and nothing else, on standard output."""

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
    help = "Make, list and revoke the tokens of a user"

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="verb", required=True)
        create = commands.add_parser("create", help="print a new token")
        create.add_argument("user")
        create.add_argument("--name", default="command line")
        create.add_argument(
            "--scope",
            default=Scope.ADMIN,
            choices=Scope.values,
            help="at most this; the user's role limits it too",
        )
        create.add_argument(
            "--days", type=float, default=0, help="expires after so many days (default: never)"
        )
        commands.add_parser("list", help="list tokens").add_argument("user")
        revoke = commands.add_parser("revoke", help="end a token")
        revoke.add_argument("id", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['verb']}")(options)
        except AppError as error:
            raise CommandError(error.detail) from error

    def _create(self, options: dict[str, Any]) -> None:
        user = selectors.user_get(options["user"])
        expires_at = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        actor = Actor(user=user, face=Face.COMMAND)
        _, secret = services.token_create(
            actor, name=options["name"], scope=options["scope"], expires_at=expires_at
        )
        self.stdout.write(secret)

    def _list(self, options: dict[str, Any]) -> None:
        for token in selectors.token_list(selectors.user_get(options["user"])):
            state = "valid" if token.is_valid else "ended"
            self.stdout.write(f"{token.pk}\t{token.hint}\t{token.scope}\t{state}\t{token.name}")

    def _revoke(self, options: dict[str, Any]) -> None:
        token = selectors.all_tokens().filter(pk=options["id"]).first()
        if token is None:
            raise CommandError(f"no token {options['id']}")
        services.token_revoke(Actor(face=Face.COMMAND), token)
