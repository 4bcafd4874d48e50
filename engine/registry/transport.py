"""HTTP as registries need it: authentication that escalates on 401, checked redirects, and retries.

`Transport.send` gives back an answer whose status the caller asked for, or raises an error of the engine. Secrets go to the
registry's own origin and to nobody else: a redirect to another host, port or scheme is followed without them, never
from HTTPS to HTTP, and only for GET and HEAD.
"""

from __future__ import annotations

import http.client
import logging
from urllib.parse import urlsplit

from engine.errors import Cancelled, EngineError, RegistryError
from engine.progress import CancelToken
from engine.registry.auth import Account, Authenticator
from engine.registry.connection import Connection, Connections
from engine.registry.errors import BadContent, Interrupted, NotARegistry, Refused, Untrusted, error_of
from engine.registry.exchange import ERROR_BODY_LIMIT, Body, FileBody, Request, Response, send_body
from engine.registry.retry import RETRYABLE_STATUS, RetryPolicy, retry_after_s
from engine.registry.urls import checked_url, origin_of

logger = logging.getLogger(__name__)

USER_AGENT = "wharfinger/0.1"
_MAX_REDIRECTS = 5
_MAX_TOKEN_ANSWER = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Transport:
    """Sends requests to one registry, as one account. Safe to share between threads."""

    def __init__(
        self, *, connections: Connections, account: Account, retry: RetryPolicy, cancel: CancelToken
    ) -> None:
        self._connections = connections
        self._auth = Authenticator(account, self._ask_token_server)
        self.retry = retry
        self._cancel = cancel

    def send(self, request: Request) -> Response:
        """Return an answer with one of the statuses `request.ok`, trying again where that can help, else raise."""
        attempts = request.attempts or self.retry.attempts
        for attempt in range(1, attempts + 1):
            try:
                return self._checked(request, self._authorised(request))
            except RegistryError as error:
                last = attempt == attempts or (isinstance(error, Refused) and attempt > 1)
                if last or not is_retryable(error) or not _is_repeatable(request.body):
                    raise
                self.pause(error, attempt)
        raise AssertionError("unreachable")

    def pause(self, error: RegistryError, attempt: int) -> None:
        """Wait before the next attempt, as long as the registry asks for or the policy says; ends at once when cancelled."""
        asked = error.context.get("retry_after_s")
        if asked is not None and asked > self.retry.max_retry_after_s:
            raise error
        delay = self.retry.delay_s(attempt) if asked is None else float(asked)
        logger.info("attempt %d failed (%s), the next in %.1f s", attempt, error.message, delay)
        if self._cancel.wait(delay):
            raise Cancelled("cancelled on request")

    def _ask_token_server(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """Send a request outside of the registry's own rules of authentication; redirects are not followed."""
        request = Request(method, url, "a token", headers=headers, body=body)
        for attempt in range(1, self.retry.attempts + 1):
            try:
                response = self._exchange(request, url, None)
                with response:
                    status, answer = response.status, response.read(_MAX_TOKEN_ANSWER)
                if status not in RETRYABLE_STATUS or attempt == self.retry.attempts:
                    return status, answer
                error = RegistryError(
                    f"the token server of {self._auth.domain} failed with status {status}", status=status
                )
                error.context["retry_after_s"] = retry_after_s(response.header("Retry-After"))
            except Interrupted as interrupted:
                if attempt == self.retry.attempts:
                    raise
                error = interrupted
            self.pause(error, attempt)
        raise AssertionError("unreachable")

    # -- one attempt ------------------------------------------------------------------------------

    def _checked(self, request: Request, response: Response) -> Response:
        if response.status in request.ok:
            return response
        with response:
            error = self._error(request, response.status, _error_body(response))
            if response.status in RETRYABLE_STATUS:
                error.context["retry_after_s"] = retry_after_s(response.header("Retry-After"))
            raise error

    def _error(self, request: Request, status: int, body: bytes) -> EngineError:
        return error_of(
            status,
            body,
            host=self._auth.domain,
            what=request.what,
            logged_in=self._auth.logged_in,
            secrets=self._auth.secrets(),
        )

    def _authorised(self, request: Request) -> Response:
        """Send with what we know of the registry's wishes; on 401 learn them and send once more."""
        sent = self._auth.header(request.scopes)
        response = self._redirected(request, sent)
        if response.status != 401 or origin_of(response.url) != origin_of(request.url):
            return response
        challenges = response.headers_of("WWW-Authenticate")
        body = _error_body(response)
        response.close()
        answer = self._auth.answer(challenges, request.scopes, sent)
        if answer is None:
            raise self._error(request, 401, body)
        if not _is_repeatable(request.body):
            raise Interrupted(f"{self._auth.domain} wanted a new token in the middle of {request.what}")
        return self._redirected(request, answer)

    def _redirected(self, request: Request, authorization: str | None) -> Response:
        url, first = request.url, origin_of(request.url)
        for _ in range(_MAX_REDIRECTS + 1):
            secret = authorization if origin_of(url) == first == self._auth.origin else None
            response = self._exchange(request, url, secret)
            if response.status not in _REDIRECTS or request.method not in ("GET", "HEAD"):
                return response
            location = response.header("Location")
            response.drain()
            url = checked_url(url, location, f"the redirect of {self._auth.domain}")
        raise Untrusted(
            f"{self._auth.domain} redirects in a loop for {request.what}",
            hint="the registry is not set up rightly",
        )

    def _exchange(self, request: Request, url: str, authorization: str | None) -> Response:
        """Send one request over one connection; one that was idle and turns out to be closed is replaced by a fresh one."""
        connection = self._connections.take(origin_of(url))
        try:
            return self._exchange_over(connection, request, url, authorization)
        except Interrupted:
            # a body in parts may have been taken in part: whoever sends it asks the registry first how far it got
            if connection.fresh or connection.stalled or not isinstance(request.body, bytes):
                raise
            self._cancel.check()
        return self._exchange_over(
            self._connections.take(origin_of(url), fresh=True), request, url, authorization
        )

    def _exchange_over(
        self, connection: Connection, request: Request, url: str, authorization: str | None
    ) -> Response:
        try:
            raw = self._talk(connection, request, url, authorization)
        except (http.client.BadStatusLine, http.client.LineTooLong, http.client.UnknownProtocol) as error:
            self._connections.give_back(connection, reusable=False)
            if isinstance(error, http.client.RemoteDisconnected):
                raise self._connections.explain(connection, error, request.what) from error
            raise NotARegistry(
                f"{connection.origin.netloc} does not speak HTTP", hint="is this the address of a registry?"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connections.give_back(connection, reusable=False)
            raise self._connections.explain(connection, error, request.what) from error
        except BaseException:
            self._connections.give_back(connection, reusable=False)
            raise
        return Response(self._connections, connection, raw, request, url)

    def _talk(
        self, connection: Connection, request: Request, url: str, authorization: str | None
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if connection.proxy is not None:
            target = f"{connection.origin}{target}"
            if connection.proxy.authorization:
                headers["Proxy-Authorization"] = connection.proxy.authorization
        connection.putrequest(request.method, target, skip_accept_encoding=True)
        if authorization:
            headers["Authorization"] = authorization
        for name, value in headers.items():
            connection.putheader(name, value)
        try:
            send_body(connection, request)
        except (BrokenPipeError, ConnectionResetError):
            # the registry answered before it had the whole body, and closed: its answer says why
            logger.debug("%s closed while a body was sent", connection.origin)
        if request.timeout_s and connection.sock is not None:
            connection.sock.settimeout(request.timeout_s)
        return connection.getresponse()


def is_retryable(error: EngineError) -> bool:
    """Tell whether the same request may succeed a little later."""
    return isinstance(error, Interrupted) or (
        isinstance(error, RegistryError) and error.status in RETRYABLE_STATUS
    )


def _error_body(response: Response) -> bytes:
    try:
        return response.read(ERROR_BODY_LIMIT)
    except (BadContent, Interrupted):
        return b""


def _is_repeatable(body: Body) -> bool:
    return isinstance(body, bytes | FileBody)
