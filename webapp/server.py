"""`python -m webapp.server`: uvicorn with our protocol class, on a TCP port and on the docker socket.

The listening sockets come as descriptors from the supervisor (`WHARFINGER_LISTEN_FD`, `WHARFINGER_DOCKER_FD`), or are opened
here (`WHARFINGER_HOST`, `WHARFINGER_PORT`; no docker socket then). With `WHARFINGER_TLS` the TCP port speaks TLS: with the
certificate in `WHARFINGER_TLS_CERT` and its `WHARFINGER_TLS_KEY`, or with one of our own authority.
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import uvicorn

from webapp.core import tls
from webapp.dockerapi.protocol import DockerProtocol, over_tls

FRAME_BYTES = 1024 * 1024  # a larger websocket message closes the connection
GRACE_S = 8  # open streams are cut after so long


def config() -> uvicorn.Config:
    """Return uvicorn's configuration. Headers of proxies are judged by us, not by uvicorn."""
    http: Any = over_tls(context) if (context := tls_context()) else DockerProtocol
    return uvicorn.Config(
        "webapp.asgi:application",
        http=http,
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        loop="uvloop",
        lifespan="on",
        log_level=os.environ.get("WHARFINGER_LOG_LEVEL", "warning").lower(),
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )


def tls_context() -> ssl.SSLContext | None:
    """Return how the TCP port speaks TLS, None where it does not; writes down what clients must believe, for docker-config."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings.server")
    from django.conf import settings

    from webapp.accounts.certificates import Authority, own_server_names

    believed = settings.TLS_BELIEVED
    if not settings.HAS_TLS:
        believed.unlink(missing_ok=True)
        return None
    authority = Authority(settings.KEYS)
    if given := os.environ.get("WHARFINGER_TLS_CERT"):
        certificate, key = Path(given), Path(os.environ.get("WHARFINGER_TLS_KEY") or given)
        believed.write_bytes(certificate.read_bytes())
    else:
        certificate = key = authority.server(own_server_names())
        believed.write_text(authority.pem)
    other = os.environ.get("WHARFINGER_TLS_CLIENT_CA")
    return tls.server_context(certificate, key, authority.pem + (Path(other).read_text() if other else ""))


def sockets() -> list[socket.socket]:
    """Return the sockets to listen on."""
    inherited = [
        int(number)
        for name in ("WHARFINGER_LISTEN_FD", "WHARFINGER_DOCKER_FD")
        if (number := os.environ.get(name))
    ]
    if inherited:
        return [socket.socket(fileno=descriptor) for descriptor in inherited]
    host, port = (
        os.environ.get("WHARFINGER_HOST", "127.0.0.1"),
        int(os.environ.get("WHARFINGER_PORT") or 8000),
    )
    return [
        socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    ]


def main() -> None:
    """Serve until told to stop."""
    configured = config()
    configured.load()
    # what is loaded now stays: without this every full collection walks it, 50 ms in the middle of some answer
    gc.collect()
    gc.freeze()
    uvicorn.Server(configured).run(sockets=sockets())


if __name__ == "__main__":
    main()
