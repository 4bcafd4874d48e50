"""The distribution protocol: what a registry is asked, in its own words, and what of its answers is believed.

A manifest asked for by digest is checked against it; one asked for by tag gets the digest that we compute. Blobs are
hashed by whoever keeps them (`blobs.download` writes into a sink that does). Source: OCI distribution specification 1.1.

    with registries.open("registry.lan:5000", settings=settings, cancel=cancel) as client:
        document = client.manifest("team/app", "1.0")
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from engine.digest import Digest, digest_bytes, parse_digest
from engine.errors import BadDigest, EngineError, ImageNotFound, RegistryError
from engine.oci.media_types import ACCEPTED_MANIFESTS
from engine.progress import CancelToken
from engine.reference import DEFAULT_DOMAIN
from engine.registry.auth import Account, OnRealm, TokenCache
from engine.registry.connection import Connections, NoTls
from engine.registry.errors import BadContent, NotARegistry
from engine.registry.exchange import Request, Response
from engine.registry.proxy import Proxies, ProxyRefused
from engine.registry.retry import RetryPolicy, Timeouts
from engine.registry.settings import HUB_HOST, Credentials, Origin, RegistrySettings, Trust, registry_origin
from engine.registry.transport import Transport
from engine.registry.urls import checked_url, origin_of

MANIFEST_LIMIT = 4 * 1024 * 1024
_PAGE = 1000
_MAX_PAGES = 100
_LINK = re.compile(r"<([^<>]{1,4096})>((?:\s*;[^,<>]{0,500})*)")


@dataclass(frozen=True)
class Document:
    """A manifest or an index as the registry served it; `digest` is that of `data`."""

    media_type: str
    digest: Digest
    data: bytes


@dataclass(frozen=True)
class Head:
    """What a registry says of a manifest without sending it."""

    media_type: str
    digest: Digest
    size: int


class Registries:
    """Opens clients, and keeps what is worth keeping between two of them: tokens.

    `insecure` is the node's list (see `Trust`); `on_realm(registry, host)` is told when an account's secret is about to go to a
    token server on another host than the registry's. `proxies` lead to registries that are not reached directly.
    """

    def __init__(
        self,
        *,
        insecure: tuple[str, ...] = (),
        on_realm: OnRealm = lambda registry, host: None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._proxies = proxies or Proxies()
        self._insecure = insecure
        self._on_realm = on_realm
        self._retry = retry or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._tokens = TokenCache()

    def open(
        self,
        domain: str,
        *,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        cancel: CancelToken | None = None,
    ) -> RegistryClient:
        """Return a client for the registry `domain`; nothing is sent before its first verb.

        `credentials` come before those in `settings`.
        """
        settings = settings or RegistrySettings(domain, registered=False)
        home = registry_origin(domain)
        insecure = (
            (*self._insecure, home.netloc) if settings.insecure and settings.registered else self._insecure
        )
        trust = Trust(home, insecure, settings.registered)
        cancel = cancel or CancelToken()
        return RegistryClient(
            domain=domain,
            credentials=credentials or settings.credentials,
            trust=trust,
            ca_pem=settings.ca_pem,
            tokens=self._tokens,
            on_realm=self._on_realm,
            retry=self._retry,
            timeouts=self._timeouts,
            cancel=cancel,
            proxies=self._proxies,
        )


class RegistryClient:
    """Speaks to one registry as one account, from any number of threads; close it to close its connections."""

    def __init__(
        self,
        *,
        domain: str,
        credentials: Credentials | None,
        trust: Trust,
        ca_pem: str,
        tokens: TokenCache,
        on_realm: OnRealm,
        retry: RetryPolicy,
        timeouts: Timeouts,
        cancel: CancelToken,
        proxies: Proxies,
    ) -> None:
        self._proxies = proxies
        self.domain = domain
        self.retry = retry
        self.cancel = cancel
        self._credentials = credentials
        self._trust = trust
        self._ca_pem = ca_pem
        self._tokens = tokens
        self._on_realm = on_realm
        self._timeouts = timeouts
        self._connections = Connections(
            trust=trust, ca_pem=ca_pem, cancel=cancel, timeouts=timeouts, proxies=proxies
        )
        self._lock = threading.Lock()
        self._ready: tuple[Origin, Transport] | None = None

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connections.close()

    # -- manifests --------------------------------------------------------------------------------

    def head_manifest(self, repository: str, target: str, *, push: bool = False) -> Head | None:
        """Return digest, type and size of a manifest, None where the registry does not say (then ask for the whole).

        `push` asks as one who may push: a repository that is still to be made shows itself to nobody else.
        """
        scopes = push_scope(repository) if push else pull_scope(repository)
        request = self._request("HEAD", f"{repository}/manifests/{target}", f"{repository}:{target}", scopes)
        request.headers = {"Accept": ", ".join(ACCEPTED_MANIFESTS)}
        request.ok = frozenset({200, 400, 404, 405})
        with self.send(request) as response:
            try:
                digest = parse_digest(response.header("Docker-Content-Digest"))
                size = int(response.header("Content-Length")[:12])
            except (BadDigest, ValueError):
                return None
            media_type = response.header("Content-Type").partition(";")[0].strip()
            return Head(media_type, digest, size) if response.status == 200 else None

    def manifest(self, repository: str, target: str) -> Document:
        """Return a manifest or an index. Raises `ImageNotFound`, `BadContent`, `NotARegistry`, `AccessRefused`."""
        what = f"{repository}@{target}" if ":" in target else f"{repository}:{target}"
        request = self._request("GET", f"{repository}/manifests/{target}", what, pull_scope(repository))
        request.headers = {"Accept": ", ".join(ACCEPTED_MANIFESTS)}
        with self._of_a_registry(request) as response:
            data = response.read(MANIFEST_LIMIT)
            media_type = response.header("Content-Type").partition(";")[0].strip().lower()
            said = response.header("Docker-Content-Digest")
        if media_type == "text/html":
            raise self._no_registry()
        digest = digest_bytes(data)
        if ":" in target and digest != target:
            raise BadContent(
                f"{self.domain} sent {digest} as {what}",
                hint="the registry is damaged, or somebody is in between",
            )
        if said and said != digest and said.startswith("sha256:"):
            raise BadContent(f"{self.domain} says that {what} is {said[:80]}, but it is {digest}")
        return Document(media_type, digest, data)

    def put_manifest(self, repository: str, target: str, document: Document) -> None:
        """Publish a manifest under a tag or its own digest. Its blobs must be there already."""
        what = f"the manifest of {repository}"
        request = self._request("PUT", f"{repository}/manifests/{target}", what, push_scope(repository))
        request.headers = {"Content-Type": document.media_type}
        request.body = document.data
        request.ok = frozenset({200, 201, 202})
        with self.send(request) as response:
            said = response.header("Docker-Content-Digest")
            response.drain()
        if said.startswith("sha256:") and said != document.digest:
            raise BadContent(f"{self.domain} stored {said[:80]} for {document.digest}")

    # -- lists ------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Check that a registry answers, and that it accepts the account. Raises as `manifest` does."""
        with self._of_a_registry(self._request("GET", "", "the registry", ())) as response:
            if response.header("Content-Type").startswith("text/html"):
                raise self._no_registry()
            response.drain()

    def tags(self, repository: str, limit: int = 10_000) -> list[str]:
        """Return the tags of a repository, in the registry's order."""
        request = self._request(
            "GET", f"{repository}/tags/list?n={_PAGE}", f"the tags of {repository}", pull_scope(repository)
        )
        return self._listed(request, "tags", limit)

    def catalog(self, limit: int = 10_000) -> list[str]:
        """Return the repositories that the registry shows to this account; many registries show none."""
        request = self._request(
            "GET", f"_catalog?n={_PAGE}", "the list of repositories", ("registry:catalog:*",)
        )
        return self._listed(request, "repositories", limit)

    def search(self, term: str, limit: int) -> list[dict[str, Any]]:
        """Return what Docker Hub's search (version 1 of the protocol) finds: JSON objects as the server gave them."""
        origin, _ = self._start()
        url = f"{origin}/v1/search?{urlencode({'q': term, 'n': limit})}"
        request = Request("GET", url, f"a search for {term!r}", (), headers={"Accept": "application/json"})
        with self.send(request) as response:
            document = _json(response, self.domain)
        results = document.get("results")
        if not isinstance(results, list):
            raise BadContent(f"{self.domain} gave no list of results")
        return [entry for entry in results[:limit] if isinstance(entry, dict)]

    # -- for the modules beside this one ----------------------------------------------------------

    def send(self, request: Request) -> Response:
        """Send a request made by `request_for` (or one that is complete); see `Transport.send`."""
        return self._start()[1].send(request)

    def request_for(self, method: str, path: str, what: str, scopes: tuple[str, ...]) -> Request:
        """Return a request for `path` below `/v2/`."""
        return self._request(method, path, what, scopes)

    def pause(self, error: RegistryError, attempt: int) -> None:
        self._start()[1].pause(error, attempt)

    def without_cancel(self, timeout_s: float) -> RegistryClient:
        """Return a client for the same registry and account that still works after a cancel, for cleaning up."""
        return RegistryClient(
            domain=self.domain,
            credentials=self._credentials,
            trust=self._trust,
            ca_pem=self._ca_pem,
            tokens=self._tokens,
            on_realm=self._on_realm,
            retry=RetryPolicy(attempts=1),
            timeouts=Timeouts(connect_s=timeout_s, read_s=timeout_s),
            cancel=CancelToken(),
            proxies=self._proxies,
        )

    # -- inside -----------------------------------------------------------------------------------

    def _request(self, method: str, path: str, what: str, scopes: tuple[str, ...]) -> Request:
        origin, _ = self._start()
        return Request(method, f"{origin}/v2/{quote(path, safe='/:@?=&+%~')}", what, scopes)

    def _start(self) -> tuple[Origin, Transport]:
        with self._lock:
            if self._ready is None:
                origin = self._find_origin()
                account = Account(self.domain, origin, self._credentials, self._tokens, self._on_realm)
                transport = Transport(
                    connections=self._connections, account=account, retry=self.retry, cancel=self.cancel
                )
                self._ready = (origin, transport)
            return self._ready

    def _find_origin(self) -> Origin:
        """Return HTTPS, or plain HTTP where that is allowed and the registry does not speak TLS."""
        secure = registry_origin(self.domain)
        plain = registry_origin(self.domain, "http")
        if self._ca_pem or not self._trust.is_insecure(secure):
            return secure
        try:
            self._connections.give_back(self._connections.take(secure), reusable=True)
        except NoTls:
            return plain
        except RegistryError:
            return plain if plain.port != secure.port else secure
        return secure

    def _of_a_registry(self, request: Request) -> Response:
        """Send; where the answer is an error that no registry would give, say so instead."""
        try:
            return self.send(request)
        except (ImageNotFound, RegistryError) as error:
            self.check_protocol(error)
            raise

    def check_protocol(self, error: EngineError) -> None:
        """Raise `NotARegistry` where `error` came of something that is none."""
        if isinstance(error, ProxyRefused):
            return
        if isinstance(error, RegistryError) and (error.status == 0 or error.status >= 429):
            return
        if not self._speaks_protocol():
            raise self._no_registry() from error

    def _speaks_protocol(self) -> bool:
        request = self._request("GET", "", "the registry", ())
        request.ok = frozenset({200, 401, 403})
        try:
            with self.send(request) as response:
                html = response.header("Content-Type").startswith("text/html")
                response.drain()
                return not html
        except EngineError as error:
            return (
                isinstance(error, RegistryError) and error.status >= 429
            ) or error.code == "registry_access"

    def _no_registry(self) -> NotARegistry:
        return NotARegistry(
            f"{self.domain} is not a container registry", hint="check host and port for a typing error"
        )

    def _listed(self, request: Request, key: str, limit: int) -> list[str]:
        names: list[str] = []
        seen: set[str] = set()
        for response in self._pages(request, seen):
            document = _json(response, self.domain)
            page = [] if document.get(key) is None else document[key]  # null where there are none
            if not isinstance(page, list):
                raise BadContent(f"{self.domain} gave no list of {key}")
            names += [name for name in page if isinstance(name, str) and len(name) < 512]
            if len(names) >= limit:
                break
        return names[:limit]

    def _pages(self, request: Request, seen: set[str]) -> Iterator[Response]:
        """Follow `Link: <…>; rel="next"` on the same origin, each page once."""
        for _ in range(_MAX_PAGES):
            seen.add(request.url)
            with self._of_a_registry(request) as response:
                link = next_link(response.headers_of("Link"))
                yield response
            if not link:
                return
            url = checked_url(request.url, link, f"the next page of {self.domain}")
            if url in seen or origin_of(url) != origin_of(request.url):
                return
            request = Request("GET", url, request.what, request.scopes)


def pull_scope(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def push_scope(repository: str, mount_from: str = "") -> tuple[str, ...]:
    """Return the rights for a push, and for reading the repository that a blob is mounted from."""
    push = f"repository:{repository}:pull,push"
    return (push, f"repository:{mount_from}:pull") if mount_from else (push,)


def next_link(headers: list[str]) -> str:
    """Return the address of the next page in `Link` headers (RFC 8288), empty where there is none."""
    for header in headers:
        for match in _LINK.finditer(header[:8192]):
            if re.search(r";\s*rel\s*=\s*\"?next\"?\s*(;|$)", match[2], re.IGNORECASE):
                return match[1]
    return ""


def _json(response: Response, domain: str) -> dict[str, Any]:
    try:
        document = json.loads(response.read(MANIFEST_LIMIT))
    except (ValueError, RecursionError) as error:
        raise BadContent(f"{domain} sent no JSON") from error
    if not isinstance(document, dict):
        raise BadContent(f"{domain} sent JSON of another form")
    return document


__all__ = ["DEFAULT_DOMAIN", "HUB_HOST", "Document", "Head", "Registries", "RegistryClient"]
