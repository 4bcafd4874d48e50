"""Asking a name server one question, the plain way: to see whether it answers, and for the tester."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from engine.network import dnsmessage as message

_PROBE_TIMEOUT_S = 0.05


def ask(server: str, name: str, kind: int, *, timeout_s: float) -> tuple[int, list[str]]:
    """Return (code, addresses) that `server` answers. Raises `TimeoutError` or another `OSError` when it does not."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    identity = int.from_bytes(os.urandom(2), "big")
    deadline = time.monotonic() + timeout_s
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        sock.connect((server, 53))
        sock.send(message.make_query(identity, name, kind))
        while True:
            try:
                answered, code, addresses = message.parse_answer(sock.recv(4096))
            except message.BadMessage:
                continue
            if answered == identity:
                return code, addresses
            if time.monotonic() > deadline:
                raise TimeoutError(f"{server} does not answer")


def wait_for_dns(gateway: str, wake: Path, *, timeout_s: float = 0.5) -> bool:
    """Wait until the agent, if one runs, answers on a new network's gateway; tell whether it does."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            ask(gateway, "", 2, timeout_s=_PROBE_TIMEOUT_S)
        except OSError:
            if time.monotonic() > deadline or not _has_listener(wake):
                return False
            time.sleep(0.002)
        else:
            return True


def _has_listener(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
