"""What the engine and the process that unpacks for it say to each other (`confined` and `unpacker`).

A job is one message on the helper's socket: JSON, with three descriptors beside it (SCM_RIGHTS): the directory that is the
target, the end of a pipe from which the archive or its entries are read, and a socket for what is said back and forth: one
JSON object a line. The process that does the job begins with `{"hello": 1}`, its pidfd beside it.

Entries that the engine has already read travel as frames: a length of four bytes, the entry as a JSON list, and the
content of a file as it is; a length of zero ends them.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from engine.errors import BadArchive, EngineError, NoSpace
from engine.layers.limits import Limits, too_big
from engine.layers.policy import Policy, Whiteouts
from engine.layers.tar_format import Kind, TarEntry

CHUNK = 256 * 1024
LINE_LIMIT = 16 * 1024 * 1024
_LENGTH = struct.Struct("<I")
END = _LENGTH.pack(0)


@dataclass(frozen=True)
class Job:
    """What is to be unpacked, and how. `owner` are the ids (user, group) that new files have before they are told another."""

    limits: Limits
    policy: Policy
    is_tar: bool = True
    has_lowers: bool = False
    idmap_start: int = 0
    owner: tuple[int, int] | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Job:
        policy, owner = dict(value["policy"]), value["owner"]  # type: ignore[call-overload]
        policy["whiteouts"] = Whiteouts(policy["whiteouts"])
        return cls(
            Limits(**value["limits"]),  # type: ignore[arg-type]
            Policy(**policy),
            bool(value["is_tar"]),
            bool(value["has_lowers"]),
            int(value["idmap_start"]),  # type: ignore[call-overload]
            None if owner is None else (owner[0], owner[1]),  # type: ignore[index]
        )


def frame(entry: TarEntry) -> bytes:
    """Return an entry as it travels."""
    attributes = {name: value.hex() for name, value in entry.xattrs.items()}
    packed = json.dumps((*entry[:-1], attributes)).encode()
    return _LENGTH.pack(len(packed)) + packed


class FrameReader:
    """The entries that `frame` made, read from a pipe; what is written there is the engine's own and is believed."""

    def __init__(self, descriptor: int) -> None:
        self._file = io.BufferedReader(io.FileIO(descriptor, closefd=False), CHUNK)
        self._left = 0

    def __iter__(self) -> Iterator[TarEntry]:
        while True:
            for _ in self.chunks():
                pass
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            if not length:
                return
            name, kind, *rest, attributes = json.loads(self._exactly(length))
            found = {key: bytes.fromhex(value) for key, value in attributes.items()}
            entry = TarEntry._make((name, Kind(kind), *rest, found))
            self._left = entry.size if entry.kind is Kind.FILE else 0
            yield entry

    def chunks(self) -> Iterator[memoryview]:
        while self._left:
            data = self._file.read1(min(self._left, CHUNK))
            if not data:
                raise BadArchive("the archive is cut off")
            self._left -= len(data)
            yield memoryview(data)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise BadArchive("the archive is cut off")
        return data


def described(error: BaseException) -> dict[str, object]:
    """Return what the engine must know of an error to raise it again."""
    if isinstance(error, BadArchive):
        return {"kind": "archive", "message": error.message, "entry": error.entry, "hint": error.hint}
    if isinstance(error, NoSpace):
        return {"kind": "space", "message": error.message, "hint": error.hint}
    if isinstance(error, MemoryError):
        return {"kind": "memory"}
    if isinstance(error, OSError) and error.errno is not None:
        return {"kind": "system", "errno": error.errno, "message": error.strerror, "entry": error.filename}
    return {"kind": "other", "message": f"{type(error).__name__}: {error}"}


def rebuilt(value: dict[str, object]) -> Exception:
    """Return the error that `described` wrote down."""
    kind, message, hint = value["kind"], str(value.get("message", "")), str(value.get("hint", ""))
    entry = value.get("entry")
    if kind == "archive":
        return BadArchive(message, entry=str(entry), hint=hint)
    if kind == "space":
        return NoSpace(message, hint=hint)
    if kind == "memory":
        return too_big("so many entries that its folders do not fit into memory", "1 GiB")
    if kind == "system":
        number = int(str(value["errno"]))
        return OSError(number, os.strerror(number), *([entry] if isinstance(entry, str) else []))
    return EngineError(f"unpacking failed: {message[:500]}")
