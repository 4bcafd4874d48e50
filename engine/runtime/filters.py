"""Seccomp programs that crun has made, kept so that it makes each profile's only once.

crun translates the profile of every container anew, which takes 5-10 ms, a third of a start. It leaves the program beside the
container's state (`seccomp.bpf`) and takes one ready-made from an annotation. So the first container of a profile teaches the
others; a profile that crun has not translated here is never given to it any other way. Only configurations of ours carry the
annotation: nothing of an image gets there.

Source: crun(1), `run.oci.seccomp_bpf_data`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

ANNOTATION = "run.oci.seccomp_bpf_data"
_INSTRUCTION_BYTES = 8
_LIMIT_BYTES = 4096 * _INSTRUCTION_BYTES  # BPF_MAXINSNS


class Filters:
    """The programs in `folder` (0700), each under the digest of its profile and of `maker`, the exact runtime program."""

    def __init__(self, folder: Path, maker: str) -> None:
        self._folder = folder
        self._maker = maker
        self._known: dict[str, str] = {}

    def prepare(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return an OCI configuration with the program of its profile, or as it is where none is known."""
        name = self._name(config)
        program = self._find(name) if name else ""
        if not program:
            return config
        return {**config, "annotations": {**config.get("annotations", {}), ANNOTATION: program}}

    def learn(self, config: dict[str, Any], made: Path) -> None:
        """Keep the program `made` that the runtime has made for a configuration. Idempotent."""
        name = self._name(config)
        if not name or self._find(name):
            return
        try:
            program = made.read_bytes()
        except FileNotFoundError:  # the container has ended meanwhile
            return
        if not _whole(program):
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = self._folder / f"{name}.{os.getpid()}.{id(program)}"
        staging.write_bytes(program)
        staging.replace(self._folder / name)

    def _find(self, name: str) -> str:
        if name not in self._known:
            with suppress(FileNotFoundError):
                program = (self._folder / name).read_bytes()
                if _whole(program):
                    self._known[name] = base64.b64encode(program).decode()
        return self._known.get(name, "")

    def _name(self, config: dict[str, Any]) -> str:
        profile = config.get("linux", {}).get("seccomp")
        if profile is None:
            return ""
        return hashlib.sha256(f"{self._maker}\0{json.dumps(profile, sort_keys=True)}".encode()).hexdigest()


def _whole(program: bytes) -> bool:
    return 0 < len(program) <= _LIMIT_BYTES and len(program) % _INSTRUCTION_BYTES == 0
