"""The multiplexed stream: eight bytes of header, then the payload (API document, operation ContainerAttach)."""

from __future__ import annotations

import struct

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER = struct.Struct(">BxxxL")
STREAMS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR}

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def frame(stream: int, payload: bytes) -> bytes:
    """Return one frame; the length is big-endian."""
    return HEADER.pack(stream, len(payload)) + payload
