"""Web addresses that a registry names (redirects, realms, upload locations), checked before anything is sent there."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from engine.registry.errors import NotARegistry, Untrusted
from engine.registry.settings import Origin, default_port


def checked_url(base: str, location: str, whose: str, *, absolute: bool = False) -> str:
    """Return where `location` leads from `base`; with `absolute` it must name its own host.

    Raises `Untrusted` for another protocol than HTTP, for a user name in the address, and for plain HTTP after HTTPS.
    """
    if not location:
        raise NotARegistry(f"{whose} leads nowhere", hint="is this the address of a registry?")
    try:
        url = location if absolute else urljoin(base, location)
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Untrusted(f"{whose} is no web address") from None
    if any(character <= " " or character == "\x7f" for character in location):
        raise Untrusted(f"{whose} is no web address")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Untrusted(f"{whose} is no web address")
    if parts.username is not None or parts.password is not None:
        raise Untrusted(f"{whose} carries a user name")
    if base.startswith("https:") and parts.scheme != "https":
        raise Untrusted(
            f"{whose} leaves TLS", hint="the registry is set up wrongly, or somebody is in between"
        )
    return url.partition("#")[0]


def origin_of(url: str) -> Origin:
    """Return scheme, host and port of a checked address."""
    parts = urlsplit(url)
    return Origin(parts.scheme, (parts.hostname or "").lower(), parts.port or default_port(parts.scheme))
