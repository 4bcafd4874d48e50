"""Files of multipart forms go to the spool as they are parsed; a view takes the id and the node reads the file.

upload = request.FILES["context"]; upload.spool_id, upload.size
"""

from __future__ import annotations

from typing import Any, BinaryIO

from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest

from webapp.core import spool

ROOM_CHECK_BYTES = 16 * 1024 * 1024


class SpooledFile(UploadedFile):
    """An uploaded file that lies in the spool as `spool_id` until its operation has ended, or until `discard()`."""

    def __init__(self, file: BinaryIO, name: str, content_type: str, size: int, spool_id: str) -> None:
        super().__init__(file, name, content_type, size)
        self.spool_id = spool_id
        self.taken = False

    def take(self) -> str:
        """Return the id for a contract; from here on the operation owns the file."""
        self.taken = True
        self.file.flush()
        return self.spool_id

    def close(self) -> None:
        if self.file is not None and not self.file.closed:
            super().close()
        if not self.taken:
            spool.discard(self.spool_id)


def give_back(request: HttpRequest) -> None:
    """Let the request's uploads go with it after all: the work that they were for was not accepted."""
    uploads = [getattr(request, "wf_spool", None)]
    if getattr(request, "_files", None):
        uploads += [file for name in request.FILES for file in request.FILES.getlist(name)]
    for upload in uploads:
        if upload is not None and getattr(upload, "taken", False):
            upload.taken = False
            upload.close()


class SpoolUploadHandler(FileUploadHandler):
    """Writes each file straight into the spool; what is cut or refused half-way leaves nothing."""

    chunk_size = 256 * 1024

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._since_check = ROOM_CHECK_BYTES
        self.spool_id, self.file = spool.create()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._since_check += len(raw_data)
        if self._since_check >= ROOM_CHECK_BYTES:
            spool.check_room()
            self._since_check = 0
        self.file.write(raw_data)

    def file_complete(self, file_size: int) -> SpooledFile:
        self.file.seek(0)
        return SpooledFile(
            self.file, self.file_name or "upload", self.content_type or "", file_size, self.spool_id
        )

    def upload_interrupted(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            spool.discard(self.spool_id)
