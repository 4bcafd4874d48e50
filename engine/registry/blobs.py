"""Downloading a blob into a sink: continued by Range after a cut, never more bytes than announced."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Protocol

from engine.digest import Digest
from engine.errors import RegistryError
from engine.registry.client import RegistryClient, pull_scope
from engine.registry.errors import BadContent
from engine.registry.exchange import Response
from engine.registry.transport import is_retryable

logger = logging.getLogger(__name__)

_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


class Sink(Protocol):
    """Where a blob's bytes go, in order. `offset` says how many it has; `restart` forgets them."""

    @property
    def offset(self) -> int: ...

    def write(self, data: bytes) -> int: ...

    def restart(self) -> None: ...


def download(
    client: RegistryClient,
    repository: str,
    *,
    digest: Digest,
    size: int,
    sink: Sink,
    on_state: Callable[[str], None] = lambda status: None,
) -> None:
    """Bring `sink` to exactly `size` bytes of the blob, going on from what it has already.

    Trying again does not count while each try brings a good piece. `on_state` is told `downloading` and `retrying`.
    Raises `BadContent` when the registry has more or fewer bytes than `size`; the digest is the sink's to check.
    """
    attempt = 0
    while sink.offset < size or attempt == 0:
        before = sink.offset
        try:
            on_state("downloading")
            _download_rest(client, repository, digest, size, sink)
            attempt = max(attempt, 1)
        except RegistryError as error:
            if not is_retryable(error):
                raise
            progressed = sink.offset - before >= client.retry.progress_bytes
            attempt = 1 if progressed else attempt + 1
            if attempt >= client.retry.attempts:
                raise
            on_state("retrying")
            client.pause(error, attempt)


def _download_rest(client: RegistryClient, repository: str, digest: Digest, size: int, sink: Sink) -> None:
    if sink.offset == size and size:
        return None
    request = client.request_for(
        "GET", f"{repository}/blobs/{digest}", f"blob {digest[:19]}", pull_scope(repository)
    )
    request.attempts = 1
    request.ok = frozenset({200, 206, 416})
    if sink.offset:
        request.headers = {"Range": f"bytes={sink.offset}-"}
    with client.send(request) as response:
        if not _continues(response, sink.offset, size):
            logger.info(
                "%s does not continue %s at %d: from the beginning", client.domain, digest, sink.offset
            )
            sink.restart()
            if response.status != 200:
                if not request.headers:
                    raise BadContent(
                        f"{client.domain} answers with part of {digest} when asked for all of it"
                    )
                response.close()
                return _download_rest(client, repository, digest, size, sink)
        _copy(response, size, sink, client.domain, digest)
    return None


def _continues(response: Response, offset: int, size: int) -> bool:
    """Tell whether the answer's body begins at `offset` of the blob."""
    if response.status == 200:
        return offset == 0
    match = _CONTENT_RANGE.match(response.header("Content-Range"))
    return (
        response.status == 206
        and match is not None
        and int(match[1]) == offset
        and match[3] in ("*", str(size))
    )


def _copy(response: Response, size: int, sink: Sink, domain: str, digest: Digest) -> None:
    left = size - sink.offset
    if response.header("Content-Encoding") not in ("", "identity"):
        raise BadContent(f"{domain} sends {digest} encoded, which nobody asked for")
    if response.length is not None and response.length != left:
        raise BadContent(f"{domain} announces {response.length} bytes for {digest}, the manifest says {left}")
    for chunk in response.chunks(left):
        if len(chunk) > size - sink.offset:
            raise BadContent(f"{domain} sends more than the {size} bytes announced for {digest}")
        sink.write(chunk)
    if sink.offset < size:
        raise BadContent(f"{domain} sends only {sink.offset} of the {size} bytes announced for {digest}")
