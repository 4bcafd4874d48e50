"""Uploading a blob: mounted from another repository where it can be, else in one piece, else in chunks.

A session begins with POST. A small blob follows in the closing PUT; a larger one in a PATCH, because a PATCH that was
cut is continued where the registry says it stopped. A registry that takes no PATCH gets one PUT, one that finds the
piece too large gets pieces. A session that does not end well is cancelled. Source: OCI distribution specification,
"Pushing blobs".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from engine.digest import Digest
from engine.errors import EngineError, ImageNotFound, RegistryError
from engine.registry.client import RegistryClient, push_scope
from engine.registry.errors import AccessRefused, BadContent
from engine.registry.exchange import Body, FileBody, Request, Response
from engine.registry.transport import is_retryable
from engine.registry.urls import checked_url

logger = logging.getLogger(__name__)

WHOLE_LIMIT = 1024 * 1024  # up to this size a blob goes with the closing PUT
PIECE = 16 * 1024 * 1024
_COMMIT_TIMEOUT_S = 300.0  # a registry on object storage may copy the whole blob before it answers
_CLEANUP_TIMEOUT_S = 1.0
_RANGE = re.compile(r"(?:bytes=)?(\d{1,18})-(\d{1,18})\Z")
_NO_PATCH = frozenset({404, 405, 415, 501})


class Source(Protocol):
    """A blob to upload. `size` and `digest` may be known only once all its bytes are there (`wait`)."""

    @property
    def size(self) -> int | None: ...

    def open(self) -> BinaryIO: ...

    def pieces(self, offset: int) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, as they come."""

    def wait(self) -> tuple[Digest, int]:
        """Return digest and size when all bytes are there."""


@dataclass
class _Session:
    """An upload that the registry has opened: where it goes on, from which byte, and how small a piece may be."""

    location: str
    offset: int = 0
    least: int = 0


def has_blob(client: RegistryClient, repository: str, digest: Digest) -> bool:
    """Tell whether a repository has a blob already."""
    request = client.request_for(
        "HEAD", f"{repository}/blobs/{digest}", f"blob {digest[:19]}", push_scope(repository)
    )
    request.ok = frozenset({200, 404})
    with client.send(request) as response:
        response.drain()
        return response.status == 200


class Upload:
    """Brings one blob into one repository."""

    def __init__(
        self, client: RegistryClient, repository: str, source: Source, on_sent: Callable[[int], None]
    ) -> None:
        self._client = client
        self._repository = repository
        self._source = source
        self._on_sent = on_sent
        self._what = f"an upload to {repository}"
        self._piece = 0  # 0: all in one PATCH
        self._patches = True

    def run(self, mount: Digest | None = None, mount_from: str = "") -> bool:
        """Upload; return True where the registry mounted the blob `mount` of `mount_from` instead."""
        attempt, session, best = 1, None, 0
        try:
            while True:
                try:
                    session = session or self._begin(mount, mount_from)
                    if session is None:
                        return True
                    self._send(session)
                    return False
                except (RegistryError, ImageNotFound) as error:
                    session = self._after(error, session)
                    offset = session.offset if session else 0
                    progressed = offset - best >= self._client.retry.progress_bytes
                    attempt, best = (1 if progressed else attempt + 1), max(best, offset)
                    if attempt > self._client.retry.attempts:
                        raise
                    if isinstance(error, RegistryError) and is_retryable(error):
                        self._client.pause(error, attempt - 1)
        except BaseException:
            if session is not None:
                self._cancel(session)
            raise

    # -- steps ------------------------------------------------------------------------------------

    def _begin(self, mount: Digest | None, mount_from: str) -> _Session | None:
        query = (
            f"?mount={quote(mount, safe=':')}&from={quote(mount_from, safe='')}"
            if mount and mount_from
            else ""
        )
        try:
            return self._post(query, push_scope(self._repository, mount_from if query else ""))
        except AccessRefused:
            if not query:
                raise
            return self._post("", push_scope(self._repository))  # no right to read the other repository

    def _post(self, query: str, scopes: tuple[str, ...]) -> _Session | None:
        request = self._client.request_for("POST", f"{self._repository}/blobs/uploads/", self._what, scopes)
        request.url += query
        request.ok = frozenset({201, 202})
        with self._begun(request) as response:
            response.drain()
            if response.status == 201 and query:
                return None
            least = response.header("OCI-Chunk-Min-Length")[:12]
            return _Session(self._location(response), 0, int(least) if least.isdigit() else 0)

    def _begun(self, request: Request) -> Response:
        try:
            return self._client.send(request)
        except (ImageNotFound, RegistryError) as error:
            self._client.check_protocol(error)
            if not isinstance(error, ImageNotFound):
                raise
            raise ImageNotFound(
                f"{self._client.domain} has no repository {self._repository} to push to",
                hint="make it there first, or check the name for a typing error",
            ) from error

    def _send(self, session: _Session) -> None:
        size = self._source.size
        if size is not None and (size <= WHOLE_LIMIT or not self._patches) and session.offset == 0:
            return self._close(session, FileBody(self._source.open(), 0, size, self._on_sent))
        if size is None:
            self._patch(session, self._source.pieces(session.offset), None)
            _, size = self._source.wait()
        while session.offset < size:
            count = size - session.offset
            if self._piece:
                count = min(count, max(self._piece, session.least))
            self._patch(session, FileBody(self._source.open(), session.offset, count, self._on_sent), count)
        return self._close(session, b"")

    def _patch(self, session: _Session, body: Body, count: int | None) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        if count is not None:
            headers["Content-Range"] = f"{session.offset}-{session.offset + count - 1}"
        request = self._request("PATCH", session.location, headers, body)
        request.ok = frozenset({200, 201, 202, 204})
        try:
            with self._client.send(request) as response:
                response.drain()
                session.location = self._location(response)
                sent = self._source.wait()[1] if count is None else session.offset + count
                session.offset = _next_offset(response, sent)
        finally:
            _close_body(body)

    def _close(self, session: _Session, body: Body) -> None:
        digest, _ = self._source.wait()
        separator = "&" if urlsplit(session.location).query else "?"
        location = f"{session.location}{separator}digest={quote(digest, safe=':')}"
        request = self._request("PUT", location, {"Content-Type": "application/octet-stream"}, body)
        request.ok = frozenset({200, 201, 204})
        request.timeout_s = _COMMIT_TIMEOUT_S
        try:
            with self._client.send(request) as response:
                response.drain()
        finally:
            _close_body(body)

    def _request(self, method: str, url: str, headers: dict[str, str], body: Body) -> Request:
        scopes = push_scope(self._repository)
        return Request(method, url, self._what, scopes, headers=headers, body=body, attempts=1)

    def _location(self, response: Response) -> str:
        return checked_url(response.url, response.header("Location"), f"the upload of {self._client.domain}")

    # -- when it goes wrong -----------------------------------------------------------------------

    def _after(self, error: EngineError, session: _Session | None) -> _Session | None:
        """Decide how to go on: return the session to continue, None to begin another; re-raise where nothing helps."""
        if session is None:
            raise error  # the POST has had its own retries
        status = getattr(error, "status", 404)
        if status == 413 and self._piece != PIECE // 4:
            self._piece = PIECE if not self._piece else PIECE // 4
        elif status in _NO_PATCH and session.offset == 0 and self._patches and self._source.size is not None:
            self._patches = False
        elif status == 416 or is_retryable(error):
            return self._resumed(session)
        elif status != 404:
            raise error
        self._cancel(session)
        return None

    def _resumed(self, session: _Session) -> _Session | None:
        """Ask the registry how far it got; None where it does not know the session any more."""
        request = self._request("GET", session.location, {}, b"")
        request.ok = frozenset({204, 202, 200})
        try:
            with self._client.send(request) as response:
                response.drain()
                offset = _next_offset(response, -1)
                size = self._source.size
                if offset < 0 or (size is not None and offset > size):
                    raise BadContent("the registry does not say how far an upload got")
                logger.info("upload to %s goes on at byte %d", self._client.domain, offset)
                return _Session(self._location(response), offset, session.least)
        except (RegistryError, ImageNotFound, BadContent):
            self._cancel(session)
            return None

    def _cancel(self, session: _Session) -> None:
        """Tell the registry to forget the session; it is only politeness, so it takes a second at most."""
        scopes = push_scope(self._repository)
        request = Request("DELETE", session.location, self._what, scopes, ok=frozenset({200, 202, 204, 404}))
        with self._client.without_cancel(_CLEANUP_TIMEOUT_S) as client:
            try:
                client.send(request).close()
            except EngineError as error:
                logger.info(
                    "an upload session at %s is left to expire: %s", self._client.domain, error.message
                )


def _next_offset(response: Response, expected: int) -> int:
    """Return the offset after the last byte that the registry has; `expected` where it does not say."""
    match = _RANGE.match(response.header("Range"))
    if match is None:
        return expected
    # a registry that has nothing yet says 0-0, as does one that has one byte: only the first is plausible
    return 0 if match[2] == "0" else int(match[2]) + 1


def _close_body(body: Body) -> None:
    if isinstance(body, FileBody):
        body.file.close()
