"""Recordings of terminal sessions: asciicast v2 files in the web account's folder.

Written as the session goes; when the disk is full or the limit is reached the recording ends (`truncated`), the session
does not. The closing audit entry carries the file's SHA-256. Format: https://docs.asciinema.org/manual/asciicast/v2/
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import time
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webapp.accounts.actor import Actor
from webapp.audit import services as audit
from webapp.audit.models import Outcome, Recording
from webapp.containers.models import Container
from webapp.core.errors import Missing
from webapp.core.ids import new_id

MAX_BYTES = 64 * 1024 * 1024


class Recorder:
    """One session being recorded; `begin` and `end` use the database, `output` and `resize` only the file."""

    def __init__(
        self, actor: Actor, container: Container, *, command: list[str], columns: int, rows: int
    ) -> None:
        self.actor = actor
        self.container = container
        self.row = Recording(
            id=new_id(),
            username=actor.name,
            container_id=container.id,
            container_name=container.name,
            command=" ".join(command)[:2000],
            face=actor.face,
            columns=columns,
            rows=rows,
        )
        self._started = time.monotonic()
        self._hash = hashlib.sha256()
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor = -1

    def begin(self) -> None:
        """Write the intent and open the file; without the entry there is no session."""
        with transaction.atomic():
            self.row.save(force_insert=True)
            self._entry("terminal.open", Outcome.ACCEPTED)
        path = path_of(self.row)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        header = {
            "version": 2,
            "width": self.row.columns,
            "height": self.row.rows,
            "timestamp": int(self.row.started_at.timestamp()),
            "title": f"{self.row.username} in {self.row.container_name}",
        }
        self._write(json.dumps(header))

    def output(self, data: bytes) -> None:
        """Record bytes that the terminal showed."""
        if text := self._decoder.decode(data):
            self._event("o", text)

    def resize(self, columns: int, rows: int) -> None:
        self._event("r", f"{columns}x{rows}")

    def end(self, *, exit_code: int | None = None, reason: str = "") -> None:
        """Close the file and write how the session ended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.row.finished_at = timezone.now()
        self.row.size_bytes = self._size
        self.row.sha256 = self._hash.hexdigest()
        with transaction.atomic():
            self.row.save()
            self._entry("terminal.close", Outcome.SUCCEEDED, detail=reason, exit_code=exit_code)

    def _entry(self, action: str, outcome: str, *, detail: str = "", exit_code: int | None = None) -> None:
        audit.record(
            self.actor,
            action,
            outcome=outcome,
            target_type="container",
            target_id=self.container.id,
            target=self.container.name,
            node=self.container.node.name,
            detail=detail,
            body={
                "recording": self.row.id,
                "command": self.row.command,
                "exit_code": exit_code,
                "sha256": self.row.sha256,
                "size_bytes": self.row.size_bytes,
                "truncated": self.row.truncated,
            },
        )

    def _event(self, kind: str, text: str) -> None:
        if not self.row.truncated:
            self._write(json.dumps([round(time.monotonic() - self._started, 6), kind, text]))

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        if self._size + len(data) > MAX_BYTES or self._descriptor < 0:
            self.row.truncated = True
            return
        try:
            written = os.write(self._descriptor, data)
        except OSError:  # a full disk ends the recording, not the session
            self.row.truncated = True
            return
        self._hash.update(data[:written])
        self._size += written
        self.row.truncated = written < len(data)


def path_of(recording: Recording) -> Path:
    return Path(settings.WEB_HOME) / "recordings" / f"{recording.id}.cast"


def readable(actor: Actor, recording_id: str) -> Recording:
    """Return a recording that the actor may see: an admin any, others their own; reading it is an entry."""
    recording = Recording.objects.filter(pk=recording_id).first()
    if (
        recording is None
        or not path_of(recording).exists()
        or not (actor.is_admin or recording.username == actor.name)
    ):
        raise Missing(f"no recording {recording_id[:32]!r}", code="recording_not_found")
    audit.record(
        actor,
        "recording.read",
        target_type="container",
        target_id=recording.container_id,
        target=recording.container_name,
        body={"recording": recording.id},
    )
    return recording
