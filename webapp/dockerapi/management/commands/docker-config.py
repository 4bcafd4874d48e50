"""`manage.py docker-config USER [--tls] [--scope S] [--days N]`: print a configuration for the `docker` command.

What is printed is a `config.json` with a new token of USER in `HttpHeaders`; docker sends
those headers with every call. Keep it in a folder of its own, so that the token goes to this engine alone:

    mkdir -m 700 ~/.docker-wharfinger
    script/manage docker-config anna > ~/.docker-wharfinger/config.json
    DOCKER_CONFIG=~/.docker-wharfinger DOCKER_HOST=tcp://127.0.0.1:8000 docker ps

With `--tls`, for a server that speaks TLS, it is a whole context with a new client certificate of USER (a tar archive, as
`docker context export` makes them), which needs no token:

    script/manage docker-config anna --tls | docker context import wharfinger -
    docker --context wharfinger ps

The same archive is ca.pem, cert.pem and key.pem for what knows no contexts (docker-py, DOCKER_CERT_PATH):

    script/manage docker-config anna --tls | tar -x -C ~/.docker-wharfinger --strip-components=2 tls/docker
"""

import json
import os
import socket
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from webapp.accounts import selectors, services
from webapp.accounts.actor import Actor
from webapp.accounts.permissions import Scope
from webapp.audit.models import Face
from webapp.core.errors import AppError

BLOCK = 512  # of a tar archive


class Command(BaseCommand):
    help = "Print a config.json with which the docker command speaks to this server as USER"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user")
        parser.add_argument(
            "--tls", action="store_true", help="a context with a client certificate, as a tar archive"
        )
        parser.add_argument("--address", default="", help="HOST:PORT of this server, as clients reach it")
        parser.add_argument("--name", default="docker command", help="what the token is called in the list")
        parser.add_argument("--scope", default=Scope.OPERATE, choices=Scope.values, help="at most this")
        parser.add_argument(
            "--days",
            type=float,
            default=0,
            help="expires after so many days (default: never, a certificate after a year)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        address = options["address"] or _address()
        try:
            if options["tls"]:
                self._context(options, address)
            else:
                self._config(options, address)
        except AppError as error:
            raise CommandError(error.detail) from error

    def _config(self, options: dict[str, Any], address: str) -> None:
        _, secret = services.token_create(**_wish(options))
        self.stdout.write(json.dumps({"HttpHeaders": {"Authorization": f"Bearer {secret}"}}, indent=2))
        self.stderr.write("Keep this as config.json in a folder that only you can read, then:")
        self.stderr.write(f"  export DOCKER_CONFIG=that-folder DOCKER_HOST=tcp://{address}")

    def _context(self, options: dict[str, Any], address: str) -> None:
        if not settings.TLS_BELIEVED.exists():
            raise CommandError("the server does not speak TLS (script/server --tls makes it)")
        if self.stdout.isatty():
            raise CommandError(
                "this is an archive with a key in it: pipe it into docker context import NAME -, or into tar"
            )
        _, issued = services.certificate_issue(**_wish(options))
        archive = _context_archive(
            address, settings.TLS_BELIEVED.read_bytes(), issued.certificate_pem, issued.key_pem
        )
        self.stdout.flush()
        self.stdout._out.buffer.write(archive)


def _wish(options: dict[str, Any]) -> dict[str, Any]:
    ends: datetime | None = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
    actor = Actor(user=selectors.user_get(options["user"]), face=Face.COMMAND)
    return {"actor": actor, "name": options["name"], "scope": options["scope"], "expires_at": ends}


def _address() -> str:
    """Return where clients find this server: what it listens on, the machine's name where that is every address."""
    host = os.environ.get("WHARFINGER_HOST") or "127.0.0.1"
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"{f'[{host}]' if ':' in host else host}:{os.environ.get('WHARFINGER_PORT') or '8000'}"


def _context_archive(address: str, believed: bytes, certificate: bytes, key: bytes) -> bytes:
    """Return what `docker context import` reads (docker/cli, cli/context/store)."""
    endpoint = {"Host": f"tcp://{address}", "SkipTLSVerify": False}
    meta = {
        "Name": "wharfinger",
        "Metadata": {"Description": "Wharfinger"},
        "Endpoints": {"docker": endpoint},
    }
    files = {
        "meta.json": json.dumps(meta).encode(),
        "tls/docker/ca.pem": believed,
        "tls/docker/cert.pem": certificate,
        "tls/docker/key.pem": key,
    }
    return b"".join(_member(name, data) for name, data in files.items()) + bytes(2 * BLOCK)


def _member(name: str, data: bytes) -> bytes:
    """Return a file as a member of a tar archive that only its owner may read (POSIX.1-1988, ustar)."""
    fields = (name.encode().ljust(100, b"\0"), b"0000600\0", b"0000000\0" * 2, b"%011o\0" % len(data))
    times = b"%011o\0" % int(timezone.now().timestamp())
    head = b"".join(fields) + times + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000"
    head = head.ljust(BLOCK, b"\0")
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    return head + data + bytes(-len(data) % BLOCK)
