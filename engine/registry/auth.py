"""Authentication with a registry: nothing is sent until it is asked for, then Basic or a token, as the 401 says.

A token's realm is the registry's word and so not believed (it would be a way to make this node send passwords, or requests,
anywhere): it must be HTTPS on a public address or the registry's own host, and the first use of a foreign host is told to
`on_realm`. Source: distribution specification, "Token Authentication"; OAuth 2 for identity tokens.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from engine.registry.challenge import Challenge, parse_challenges
from engine.registry.errors import AccessRefused, BadContent, error_text
from engine.registry.settings import Credentials, Origin
from engine.registry.urls import checked_url, origin_of

logger = logging.getLogger(__name__)

CLIENT_ID = "wharfinger"
_DEFAULT_LIFE_S = 60
_MAX_LIFE_S = 24 * 3600
_MAX_TOKEN = 64 * 1024

Scopes = tuple[str, ...]
OnRealm = Callable[[str, str], None]
Fetch = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]


@dataclass(frozen=True)
class _Key:
    """What a cached answer is good for: one registry, one account, one set of rights."""

    origin: Origin
    account: str
    scopes: Scopes


class TokenCache:
    """Authorization headers that were accepted, shared by all work of a process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._headers: dict[_Key, tuple[str, float]] = {}

    def get(self, key: _Key) -> str | None:
        with self._lock:
            header, expires = self._headers.get(key, ("", 0.0))
            return header if time.monotonic() < expires else None

    def put(self, key: _Key, header: str, life_s: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._headers = {key: kept for key, kept in self._headers.items() if kept[1] > now}
            self._headers[key] = (header, now + life_s)

    def forget(self, key: _Key) -> None:
        with self._lock:
            self._headers.pop(key, None)

    def secrets(self, origin: Origin, account: str) -> list[str]:
        """Return what must not appear in an error about `origin`."""
        with self._lock:
            mine = [
                kept[0]
                for key, kept in self._headers.items()
                if (key.origin, key.account) == (origin, account)
            ]
        return [part for header in mine for part in (header, header.partition(" ")[2])]


@dataclass(frozen=True)
class Account:
    """As whom we speak to which registry, and where what was learnt about it is kept."""

    domain: str
    origin: Origin
    credentials: Credentials | None
    cache: TokenCache
    on_realm: OnRealm


class Authenticator:
    """Knows how one registry wants to be spoken to by one account. `fetch` sends a request to a token server."""

    def __init__(self, account: Account, fetch: Fetch) -> None:
        self.domain = account.domain
        self.origin = account.origin
        self._credentials = account.credentials
        self._account = account.credentials.fingerprint() if account.credentials else ""
        self._cache = account.cache
        self._on_realm = account.on_realm
        self._fetch = fetch
        self._lock = threading.Lock()

    @property
    def logged_in(self) -> bool:
        return self._credentials is not None

    def secrets(self) -> list[str]:
        """Return every string that must be kept out of errors and logs."""
        own = (
            [self._credentials.password, self._credentials.identity_token, _basic(self._credentials)]
            if self._credentials
            else []
        )
        return own + self._cache.secrets(self.origin, self._account)

    def header(self, scopes: Scopes) -> str | None:
        """Return the `Authorization` header that worked last for these rights, None where nothing is known yet."""
        return self._cache.get(self._key(scopes)) or self._cache.get(self._key(()))

    def answer(self, headers: Iterable[str], scopes: Scopes, sent: str | None) -> str | None:
        """Return another header than `sent` that answers the challenges, None where we have none.

        Raises `AccessRefused` where the token server refuses the account, `Untrusted` for a realm that breaks the rules.
        """
        challenges = parse_challenges(headers)
        with self._lock:
            known = self.header(scopes)
            if known is not None and known != sent:
                return known  # another thread was asked the same question
            self._cache.forget(self._key(scopes))
            self._cache.forget(self._key(()))
            for challenge in sorted(challenges, key=lambda challenge: challenge.scheme != "bearer"):
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    return self._bearer(challenge, scopes)
                if challenge.scheme == "basic" and self._credentials and self._credentials.password:
                    header = _basic(self._credentials)
                    self._cache.put(self._key(()), header, _MAX_LIFE_S)
                    return header if header != sent else None
        return None

    def _key(self, scopes: Scopes) -> _Key:
        return _Key(self.origin, self._account, tuple(sorted(scopes)))

    def _bearer(self, challenge: Challenge, scopes: Scopes) -> str:
        realm = self._checked_realm(challenge.parameters["realm"])
        wanted = scopes or tuple(challenge.parameters.get("scope", "").split())
        status, body = self._ask(realm, challenge.parameters.get("service", ""), wanted)
        if status != 200:
            raise self._refused(status, body)
        token, life_s = _token_of(body, self.domain)
        header = f"Bearer {token}"
        self._cache.put(self._key(scopes), header, life_s)
        return header

    def _ask(self, realm: str, service: str, scopes: Scopes) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if self._credentials and self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "scope": " ".join(scopes),
                "client_id": CLIENT_ID,
            }
            form["refresh_token"] = self._credentials.identity_token
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return self._fetch("POST", realm, headers, urlencode(form).encode())
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if self._credentials:
            query.append(("account", self._credentials.username))
            headers["Authorization"] = _basic(self._credentials)
        separator = "&" if urlsplit(realm).query else "?"
        return self._fetch("GET", realm + (separator + urlencode(query) if query else ""), headers, b"")

    def _checked_realm(self, realm: str) -> str:
        """Return the token server's address if it may be asked; the connection checks the network address again."""
        url = checked_url(f"{self.origin}/", realm, f"the token server of {self.domain}", absolute=True)
        target = origin_of(url)
        if target.host != self.origin.host and self._credentials:
            self._on_realm(self.domain, target.netloc)
        return url

    def _refused(self, status: int, body: bytes) -> Exception:
        _, said = error_text(body, self.secrets())
        tail = f": {said}" if said else ""
        if self._credentials and status in (400, 401, 403):
            hint = "check user name and password of this registry's account"
            return AccessRefused(
                f"{self.domain} does not accept the user name and password{tail}", status=status, hint=hint
            )
        hint = "log in to the registry, or check the name for a typing error"
        return AccessRefused(f"{self.domain} gives no token (status {status}){tail}", status=401, hint=hint)


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _token_of(body: bytes, domain: str) -> tuple[str, float]:
    """Return the token and the seconds for which it is used; raises `BadContent` where the answer holds none."""
    try:
        document = json.loads(body)
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in", _DEFAULT_LIFE_S)
    except (ValueError, AttributeError, RecursionError):
        token, life = None, 0
    if (
        not isinstance(token, str)
        or not 0 < len(token) <= _MAX_TOKEN
        or not token.isascii()
        or not token.isprintable()
    ):
        raise BadContent(f"the token server of {domain} gave no token")
    if not isinstance(life, int) or isinstance(life, bool):
        life = _DEFAULT_LIFE_S
    # used for nine tenths of its life: the clock here starts when the answer is read, not when it was written
    return token, min(max(life, _DEFAULT_LIFE_S), _MAX_LIFE_S) * 0.9
