"""`manage.py prepare`: make what the first start needs; safe to run at every start.

Migrates, makes the node of this machine known, and makes the first admin. The admin's password comes from
`WHARFINGER_ADMIN_PASSWORD`, or one is made and printed, this once, as `admin password: ...` on standard output.
"""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from webapp.accounts import services as accounts
from webapp.nodes import services as nodes


class Command(BaseCommand):
    help = "Migrate, register this machine's node, make the first admin"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--node", default=os.environ.get("WHARFINGER_NODE", "local"))

    def handle(self, *args: Any, **options: Any) -> None:
        for folder in (settings.WEB_HOME, settings.WEB_HOME / "recordings", settings.SPOOL / "in"):
            folder.mkdir(parents=True, exist_ok=True)
        call_command("migrate", interactive=False, verbosity=0)
        nodes.ensure_node(options["node"])
        given = os.environ.get("WHARFINGER_ADMIN_PASSWORD", "")
        password = accounts.ensure_admin(given)
        if password is not None and not given:
            self.stdout.write(f"admin password: {password}")
