"""Finding an image: on this node, in a registry's catalog and tags, in Docker Hub's search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import BadReference, EngineError, ImageNotFound, InvalidInput
from engine.images.model import Image
from engine.oci.manifest import Index, parse_document
from engine.platform import Platform
from engine.progress import CancelToken
from engine.reference import DEFAULT_DOMAIN, Reference, parse_named
from engine.registry.client import Registries
from engine.registry.errors import AccessRefused, redact
from engine.registry.settings import HUB_SEARCH_HOST, Credentials, RegistrySettings

_MAX_TERM = 256
_LIMIT = 100


@dataclass(frozen=True)
class SearchResult:
    """A repository that fits; `stars`, `official` and `description` are known for Docker Hub only."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


@dataclass(frozen=True)
class RemoteImage:
    """A manifest or an index in a registry. `platforms` are those that an index names; a single manifest names none."""

    media_type: str
    digest: str
    size_bytes: int
    platforms: list[dict[str, str]]


class Searcher:
    """Looks into registries."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    def search(
        self,
        term: str,
        *,
        limit: int = 25,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        cancel: CancelToken | None = None,
    ) -> list[SearchResult]:
        """Return repositories whose name holds `term`: of Docker Hub, or of the registry before the term's first slash.

        Raises `InvalidInput` for a term that no name can hold, `RegistryError` where the registry is not reachable,
        `AccessRefused` where it shows its catalog to nobody.
        """
        domain, words = split_term(term)
        limit = max(1, min(limit, _LIMIT))
        if domain == DEFAULT_DOMAIN:
            return self._hub(words, limit, cancel)
        names = self.catalog(domain, words, settings=settings, credentials=credentials, cancel=cancel)
        return [SearchResult(f"{domain}/{name}") for name in names[:limit]]

    def catalog(
        self,
        domain: str,
        holding: str = "",
        *,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        cancel: CancelToken | None = None,
    ) -> list[str]:
        """Return the repositories of a registry whose path holds `holding`, sorted."""
        with self._registries.open(
            domain, settings=settings, credentials=credentials, cancel=cancel
        ) as client:
            try:
                names = client.catalog()
            except ImageNotFound as error:
                raise AccessRefused(
                    f"{domain} has no catalog", hint="ask for a repository by its name"
                ) from error
        return sorted({name for name in names if holding.lower() in name})

    def tags(
        self,
        reference: Reference,
        *,
        settings: RegistrySettings | None = None,
        credentials: Credentials | None = None,
        cancel: CancelToken | None = None,
    ) -> list[str]:
        """Return the tags of a repository. Raises `ImageNotFound` where there is no such repository."""
        opened = self._registries.open(
            reference.domain, settings=settings, credentials=credentials, cancel=cancel
        )
        with opened as client:
            return client.tags(reference.path)

    def remote(self, reference: Reference, *, settings: RegistrySettings | None = None) -> RemoteImage:
        """Return what a registry has under a name, without fetching it. Raises `ImageNotFound`, `AccessRefused`."""
        with self._registries.open(reference.domain, settings=settings) as client:
            found = client.manifest(reference.path, reference.digest or reference.tag or "latest")
        document = parse_document(found.data, found.media_type)
        parts = document.manifests if isinstance(document, Index) else ()
        platforms = [_platform(part.platform) for part in parts if part.platform is not None]
        return RemoteImage(found.media_type, found.digest, len(found.data), platforms)

    def _hub(self, words: str, limit: int, cancel: CancelToken | None) -> list[SearchResult]:
        with self._registries.open(HUB_SEARCH_HOST, cancel=cancel) as client:  # it needs no account
            return [found for entry in client.search(words, limit) if (found := _result(entry))]


def _platform(platform: Platform) -> dict[str, str]:
    """Return a platform in the words of the OCI image index."""
    values = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    return {name: value for name, value in values.items() if value}


def search_local(images: Iterable[Image], term: str) -> list[SearchResult]:
    """Return the repositories of this node whose familiar name holds `term`, each once."""
    names = {parse_named(name).familiar_name for image in images for name in image.names}
    return [SearchResult(name) for name in sorted(names) if term.lower() in name.lower()]


def split_term(term: str) -> tuple[str, str]:
    """Split a term into registry and words; a first part that cannot be a registry belongs to the words.

    Raises `InvalidInput` for a term that no name can hold.
    """
    text = term.strip()
    if not text or len(text) > _MAX_TERM or not text.isprintable():
        raise InvalidInput(f"nothing can be found for {term[:60]!r}", hint="give part of an image's name")
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first):
        return DEFAULT_DOMAIN, text
    try:
        return parse_named(f"{first}/x").domain, rest
    except BadReference as error:
        raise InvalidInput(f"no registry: {first[:60]!r}", hint=error.hint) from error


def _result(entry: dict[str, object]) -> SearchResult | None:
    """Read one result of Docker Hub, None where it is none."""
    name, stars = entry.get("name"), entry.get("star_count")
    try:
        familiar = parse_named(str(name)).familiar_name
    except EngineError:
        return None
    description = redact(str(entry.get("description") or ""))
    count = stars if isinstance(stars, int) and not isinstance(stars, bool) else 0
    return SearchResult(familiar, description, count, entry.get("is_official") is True)
