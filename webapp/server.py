"""`python -m webapp.server`: uvicorn with our protocol class, on a TCP port and on the docker socket.

The listening sockets come as descriptors from the supervisor (`WHARFINGER_LISTEN_FD`, `WHARFINGER_DOCKER_FD`), or are opened
here (`WHARFINGER_HOST`, `WHARFINGER_PORT`; no docker socket then).
"""

from __future__ import annotations

import gc
import os
import socket

import uvicorn

from webapp.dockerapi.protocol import DockerProtocol

FRAME_BYTES = 1024 * 1024  # a larger websocket message closes the connection
GRACE_S = 8  # open streams are cut after so long


def config() -> uvicorn.Config:
    """Return uvicorn's configuration. Headers of proxies are judged by us, not by uvicorn."""
    return uvicorn.Config(
        "webapp.asgi:application",
        http=DockerProtocol,
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
