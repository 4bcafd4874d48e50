"""The site with sample records in a process of its own: what browser tests and pictures of pages look at.

    python -m tests.support.sample_site [--port 8123] [--empty]

It has a folder, a database and an in-process hub of its own, and no node: questions are answered by
`sample_data.node_answers`, work is recorded and never done. It prints one line of JSON (address, references, sessions)
when it is ready, then obeys lines of JSON on standard input:

    {"do": "change", "container": "leafy-front", "changes": {"status": "exited", "exit_code": 0}}
    {"do": "end", "operation": "<id>", "status": "succeeded"}      {"do": "log", ...}      {"do": "stop"}

and answers each with a line. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings.test"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--empty", action="store_true", help="people and a node only")
    options = parser.parse_args()

    import django

    django.setup()
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["*"]
    facts = prepare(empty=options.empty)
    listener = socket.create_server(("127.0.0.1", options.port))
    facts["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
    threading.Thread(target=obey, daemon=True).start()
    serve(listener, facts)


def prepare(*, empty: bool) -> dict[str, Any]:
    """Make the database and fill it; return what a test needs to know."""
    from django.core.management import call_command
    from django.db import connection

    from tests.support import sample_data
    from webapp.operations.sender import RecordingSender

    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=OFF" if connection.vendor == "sqlite" else "SELECT 1")
    RecordingSender.answers.update(sample_data.node_answers())
    made = sample_data.people_and_node() if empty else sample_data.fill()
    return {
        "containers": {name: container.pk for name, container in made.get("containers", {}).items()},
        "builds": {name: build.pk for name, build in made.get("builds", {}).items()},
        "images": [image.image_id for image in made.get("images", [])],
        "operations": [operation.pk for operation in made.get("operations", [])],
        "sessions": {name: session_of(user.pk) for name, user in made["people"].items()},
    }


def session_of(user_id: int) -> str:
    """Return the session key of a person who is signed in."""
    from django.contrib.auth import SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.utils import timezone

    from webapp.accounts.authentication import SIGNED_IN_AT

    session = SessionStore()
    session[SESSION_KEY] = str(user_id)
    session[SIGNED_IN_AT] = timezone.now().timestamp() + 1
    session.save()
    return str(session.session_key)


def serve(listener: socket.socket, facts: dict[str, Any]) -> None:
    import uvicorn

    from webapp.core.asgi import WharfingerHandler
    from webapp.core.routes import require_declared
    from webapp.core.statics import StaticFiles
    from webapp.realtime.routing import websockets

    require_declared()
    django, statics = WharfingerHandler(), StaticFiles()

    async def application(scope: Any, receive: Any, send: Any) -> None:  # the site without the Docker API
        if scope["type"] == "websocket":
            await websockets(scope, receive, send)
        elif scope["path"].startswith("/static/"):
            await statics(scope, receive, send)
        else:
            await django(scope, receive, send)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(json.dumps(facts), flush=True)

    config = uvicorn.Config(application, log_level="warning", lifespan="off", ws="auto", access_log=False)
    Server(config).run(sockets=[listener])


# --- orders ---------------------------------------------------------------------------------------------------


def obey() -> None:
    """Carry out the orders on standard input; end the process with it."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": True, "result": ORDERS[order.pop("do")](**order)}
        except Exception as error:  # the test that asked is told
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)
    os._exit(0)


def change(container: str, changes: dict[str, Any]) -> str:
    """The node says that a container changed."""
    from webapp.containers import records
    from webapp.containers.models import Container
    from webapp.realtime import wake

    row = Container.objects.select_related("node").get(name=container)
    record = row.record | changes | {"generation": row.generation + 1}
    records.apply(row.node, record)
    attributes = {"name": container}
    data = {
        "type": "container",
        "action": record["status"],
        "subject": row.pk,
        "node": row.node.name,
        "attributes": attributes,
    }
    wake.publish([wake.Note(wake.EVENTS, data)])
    return str(row.pk)


def end(operation: str, status: str, error: dict[str, Any] | None = None) -> str:
    """The node says that an operation ended."""
    from webapp.operations import services
    from webapp.operations.effects import operation_ended
    from webapp.operations.models import Operation, Status
    from webapp.realtime import wake

    row = Operation.objects.select_related("node").get(pk=operation)
    services.finish(row, Status(status), error=error)
    operation_ended(row)
    wake.operation(row)
    return row.status


def sent() -> list[list[Any]]:
    """What was sent to the node: operation, kind and the contract's fields."""
    from dataclasses import asdict

    from webapp.operations.sender import RecordingSender

    return [
        [operation, type(contract).KIND, asdict(contract)] for operation, _, contract in RecordingSender.sent
    ]


def answer(kind: str, result: Any) -> str:
    """From now on the node answers this to questions of a kind."""
    from webapp.operations.sender import RecordingSender

    RecordingSender.answers[kind] = result
    return kind


def spooled(name: str) -> str:
    """Where an upload lies."""
    from webapp.core import spool

    return str(spool.path_in(name))


ORDERS = {"spooled": spooled, "change": change, "end": end, "sent": sent, "answer": answer}


if __name__ == "__main__":
    main()
