"""Signing in and out, people, tokens. Each change is an audit entry in the same transaction."""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.middleware.csrf import rotate_token
from django.utils import timezone

from webapp.accounts.actor import SYSTEM, Actor
from webapp.accounts.authentication import SIGNED_IN_AT, TOKEN_PREFIX, digest_of
from webapp.accounts.certificates import Authority, Issued, fingerprint, parse
from webapp.accounts.models import SignInFailure, Token, TokenKind, User
from webapp.accounts.permissions import SCOPE_PERMISSIONS, Permission, Right, Role, Scope
from webapp.audit import services as audit
from webapp.core.errors import Conflict, Denied, Invalid, NotSignedIn, TooMany
from webapp.realtime import wake

WINDOW = timedelta(minutes=5)
TRIES_A_NAME = 5  # from one address, in the window
TRIES_AN_ADDRESS = 30
TRIES_A_NAME_FROM_ANYWHERE = 100
_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_NOBODYS_HASH: list[str] = []


# --- signing in ---------------------------------------------------------------------------------------------------


def sign_in(request: HttpRequest, username: str, password: str) -> User:
    """Sign a person in with this session. Raises `TooMany` after too many failures, else `NotSignedIn` when it does not fit.

    An unknown name takes as long as a wrong password: the password is then checked against nobody's hash.
    """
    actor: Actor = request.actor  # type: ignore[attr-defined]
    username = username.strip().lower()[:64]
    _check_rate(actor, username)
    user = User.objects.filter(username=username).first()
    fits = check_password(password, user.password if user else _nobodys_hash())
    if user is None or not fits or not user.is_active:
        left = _count_failure(actor, username)
        raise NotSignedIn(
            "user name or password is wrong",
            code="wrong_password",
            hint=f"{left} tries left, then wait {WINDOW.seconds // 60} min"
            if left
            else f"wait {WINDOW.seconds // 60} min",
            tries_left=left,
        )
    with transaction.atomic():
        request.session.flush()  # no session that somebody planted lives on
        request.session[SESSION_KEY] = str(user.pk)
        request.session[SIGNED_IN_AT] = timezone.now().timestamp()
        user.last_login = timezone.now()
        user.save(update_fields=["last_login"])
        SignInFailure.objects.filter(username=username, address=actor.address).delete()
        audit.record(
            Actor(user=user, face=actor.face, address=actor.address),
            "session.open",
            target_type="user",
            target=username,
        )
    rotate_token(request)
    return user


def sign_out(request: HttpRequest) -> None:
    """End this session; its live connections are closed."""
    actor: Actor = request.actor  # type: ignore[attr-defined]
    if actor.user is not None:
        with transaction.atomic():
            audit.record(actor, "session.close", target_type="user", target=actor.name)
    request.session.flush()
    wake.logins_changed()


def _check_rate(actor: Actor, username: str) -> None:
    since = timezone.now() - WINDOW
    recent = SignInFailure.objects.filter(at__gt=since)
    here = recent.filter(address=actor.address)
    too_many = (
        here.filter(username=username).count() >= TRIES_A_NAME
        or here.count() >= TRIES_AN_ADDRESS
        or recent.filter(username=username).count() >= TRIES_A_NAME_FROM_ANYWHERE
    )
    if too_many:
        audit.refuse(actor, "session.open", "too many failed sign-ins", target_type="user", target=username)
        raise TooMany(
            "too many failed sign-ins",
            retry_after_s=int(WINDOW.total_seconds()),
            hint=f"wait {WINDOW.seconds // 60} minutes, or ask an admin",
        )


def _count_failure(actor: Actor, username: str) -> int:
    """Write the failure down; return how many tries are left."""
    SignInFailure.objects.create(username=username, address=actor.address)
    audit.refuse(actor, "session.open", "user name or password is wrong", target_type="user", target=username)
    since = timezone.now() - WINDOW
    failed = SignInFailure.objects.filter(username=username, address=actor.address, at__gt=since).count()
    return max(0, TRIES_A_NAME - failed)


def _nobodys_hash() -> str:
    if not _NOBODYS_HASH:
        _NOBODYS_HASH.append(make_password(secrets.token_urlsafe(24)))
    return _NOBODYS_HASH[0]


def forget_old_failures() -> None:
    """Forget failed sign-ins that no longer count."""
    SignInFailure.objects.filter(at__lt=timezone.now() - 4 * WINDOW).delete()


# --- people -------------------------------------------------------------------------------------------------------


def user_create(
    actor: Actor,
    *,
    username: str,
    password: str,
    role: str = Role.VIEWER,
    display_name: str = "",
    rights: dict[str, bool] | None = None,
    unix_uid: int | None = None,
) -> User:
    """Add a person. Raises `Invalid` for a bad name or a weak password, `Conflict` for a taken name."""
    _need_admin(actor, "user.create", username)
    if not _USERNAME.match(username):
        raise Invalid(
            f"{username[:64]!r} is no user name",
            fields={"username": ["lower-case letters, digits, dot, dash, underscore"]},
        )
    user = User(username=username, role=_role(role), display_name=display_name[:100], unix_uid=unix_uid)
    _set_rights(user, rights or {})
    _set_password(user, password)
    with transaction.atomic():
        if User.objects.filter(username=username).exists():
            raise Conflict(f"there is a user {username!r} already", code="already_exists")
        _check_uid(user)
        user.save(force_insert=True)
        body = {"role": user.role, "display_name": user.display_name, "rights": rights or {}}
        audit.record(
            actor, "user.create", target_type="user", target_id=str(user.pk), target=username, body=body
        )
    return user


def user_update(actor: Actor, user: User, changes: dict[str, Any]) -> User:
    """Change a person: `display_name`, `role`, `rights`, `is_active`, `unix_uid`, `password`. The last admin stays one.

    Whoever loses something by it is signed out everywhere.
    """
    _need_admin(actor, "user.update", user.username)
    before = (user.role, user.rights, user.is_active)
    if "display_name" in changes:
        user.display_name = str(changes["display_name"])[:100]
    if "role" in changes:
        user.role = _role(changes["role"])
    if "rights" in changes:
        _set_rights(user, changes["rights"])
    if "is_active" in changes:
        user.is_active = bool(changes["is_active"])
    if "unix_uid" in changes:
        user.unix_uid = changes["unix_uid"]
    if "password" in changes:
        _set_password(user, changes["password"])
    with transaction.atomic():
        _check_uid(user)
        _check_an_admin_stays(user)
        if "password" in changes or before != (user.role, user.rights, user.is_active):
            user.sessions_valid_after = timezone.now()
        user.save()
        audit.record(
            actor,
            "user.update",
            target_type="user",
            target_id=str(user.pk),
            target=user.username,
            body=changes,
        )
        transaction.on_commit(wake.logins_changed)
    return user


def profile_update(actor: Actor, changes: dict[str, Any]) -> User:
    """Change one's own display name; anything else is an admin's to change, and refused here."""
    user = _self(actor)
    if unknown := sorted(set(changes) - {"display_name"}):
        raise Invalid(f"{unknown[0]} cannot be changed here", fields={unknown[0]: ["not yours to change"]})
    user.display_name = str(changes.get("display_name", ""))[:100]
    with transaction.atomic():
        user.save(update_fields=["display_name"])
        audit.record(
            actor,
            "user.update",
            target_type="user",
            target_id=str(user.pk),
            target=user.username,
            body=changes,
        )
    return user


def password_change(request: HttpRequest, old: str, new: str) -> None:
    """Change one's own password; every other session of this person ends."""
    actor: Actor = request.actor  # type: ignore[attr-defined]
    user = _self(actor)
    _check_rate(actor, user.username)
    if not check_password(old, user.password):
        _count_failure(actor, user.username)
        raise Invalid("the old password is wrong", fields={"old": ["wrong"]})
    _set_password(user, new)
    with transaction.atomic():
        user.sessions_valid_after = timezone.now()
        user.save(update_fields=["password", "sessions_valid_after"])
        request.session.cycle_key()
        request.session[SIGNED_IN_AT] = timezone.now().timestamp()
        audit.record(actor, "user.password", target_type="user", target_id=str(user.pk), target=user.username)
        transaction.on_commit(wake.logins_changed)


def ensure_admin(password: str = "") -> str | None:
    """Make the first admin, `admin`, if there is no admin; return the password made for it, None if there was one already.

    There is no window in which a visitor could do this: it is a command on the machine itself. Who is root there is this
    admin on the local docker socket, until somebody else is.
    """
    if User.objects.filter(role=Role.ADMIN, is_active=True).exists():
        return None
    chosen = password or secrets.token_urlsafe(12)
    with transaction.atomic():
        user, _ = User.objects.get_or_create(username="admin")
        user.role, user.is_active = Role.ADMIN, True
        if user.unix_uid is None and not User.objects.filter(unix_uid=0).exists():
            user.unix_uid = 0
        user.password = make_password(chosen)
        user.sessions_valid_after = timezone.now()
        user.save()
        audit.record(
            SYSTEM,
            "user.create",
            target_type="user",
            target_id=str(user.pk),
            target="admin",
            body={"role": "admin"},
        )
    return chosen


def _set_password(user: User, password: str) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Invalid(
            " ".join(error.messages).rstrip(".").lower(), fields={"password": error.messages}
        ) from error
    user.password = make_password(password)


def _set_rights(user: User, rights: dict[str, Any]) -> None:
    for name, value in rights.items():
        if name not in {right.value for right in Right} or not isinstance(value, bool):
            raise Invalid(f"no right {str(name)[:40]!r}", fields={"rights": ["unknown right"]})
        setattr(user, f"right_{name}", value)


def _role(text: Any) -> str:
    if text not in Role.values:
        raise Invalid(f"no role {str(text)[:20]!r}", fields={"role": [f"one of {', '.join(Role.values)}"]})
    return str(text)


def _check_uid(user: User) -> None:
    if user.unix_uid is None:
        return
    if (
        not isinstance(user.unix_uid, int)
        or isinstance(user.unix_uid, bool)
        or not 0 <= user.unix_uid < 2**32
    ):
        raise Invalid("a uid is a number from 0 to 4294967295", fields={"unix_uid": ["no uid"]})
    if User.objects.filter(unix_uid=user.unix_uid).exclude(pk=user.pk).exists():
        raise Conflict(f"uid {user.unix_uid} belongs to another user", code="already_exists")


def _check_an_admin_stays(user: User) -> None:
    if user.role == Role.ADMIN and user.is_active:
        return
    if not User.objects.filter(role=Role.ADMIN, is_active=True).exclude(pk=user.pk).exists():
        raise Conflict("this is the last admin", code="last_admin", hint="make somebody else an admin first")


def _need_admin(actor: Actor, action: str, target: str) -> None:
    if not actor.can(Permission.ADMIN):
        audit.refuse(actor, action, "needs the permission admin", target=target, target_type="user")
        raise Denied("only an admin may do this", recorded=True, needs="admin")


def _self(actor: Actor) -> User:
    if actor.user is None:
        raise NotSignedIn("sign in first")
    return actor.user


# --- tokens -------------------------------------------------------------------------------------------------------


def token_create(
    actor: Actor,
    *,
    name: str,
    scope: str = Scope.OPERATE,
    user: User | None = None,
    expires_at: datetime | None = None,
) -> tuple[Token, str]:
    """Make a token for `user` (default: the actor); return it and the secret, which is shown this once.

    A token made with a token has no wider scope, lives no longer, and ends with it. For others only an admin makes tokens.
    """
    user = user or _self(actor)
    _check_may_make_token(actor, user, scope)
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = Token(user=user, name=name, scope=scope, digest=digest_of(secret), hint=secret[:8])
    return _keep(actor, token, expires_at), secret


def certificate_issue(
    actor: Actor,
    *,
    name: str,
    scope: str = Scope.OPERATE,
    user: User | None = None,
    expires_at: datetime | None = None,
) -> tuple[Token, Issued]:
    """Sign a TLS client certificate for `user`; its key is in the answer and nowhere else. Rules are those of tokens."""
    user = user or _self(actor)
    _check_may_make_token(actor, user, scope)
    issued = Authority(settings.KEYS).client(user.username, _expiry(actor, expires_at))
    token = Token(user=user, name=name, scope=scope, digest=issued.fingerprint)
    return _keep_certificate(actor, token, issued.certificate.not_valid_after_utc), issued


def certificate_register(
    actor: Actor,
    *,
    pem: str,
    name: str,
    scope: str = Scope.OPERATE,
    user: User | None = None,
    expires_at: datetime | None = None,
) -> Token:
    """Make a TLS client certificate, signed by an authority that the server was told of, one of `user`.

    It ends with its own last day at the latest. One that has been here before, and was ended, stays ended.
    """
    user = user or _self(actor)
    _check_may_make_token(actor, user, scope)
    certificate = parse(pem)
    token = Token(user=user, name=name, scope=scope, digest=fingerprint(certificate))
    last = certificate.not_valid_after_utc
    return _keep_certificate(actor, token, min(expires_at or last, last))


def _keep_certificate(actor: Actor, token: Token, expires_at: datetime) -> Token:
    token.kind, token.hint = TokenKind.CERTIFICATE, token.digest[:8]
    return _keep(actor, token, expires_at)


def _keep(actor: Actor, token: Token, expires_at: datetime | None) -> Token:
    """Write a new token down, in the book too."""
    token.name = token.name.strip()[:100] or "token"
    token.expires_at, token.parent = _expiry(actor, expires_at), actor.token
    body = {
        "name": token.name,
        "kind": str(token.kind),
        "scope": token.scope,
        "expires_at": token.expires_at and token.expires_at.isoformat(),
    }
    if token.kind == TokenKind.CERTIFICATE:
        body["fingerprint"] = token.digest
    with transaction.atomic():
        if Token.objects.filter(digest=token.digest).exists():
            raise Conflict("this certificate is registered already", code="already_exists")
        token.save(force_insert=True)
        _token_entry(actor, "token.create", token, body)
    return token


def _check_may_make_token(actor: Actor, user: User, scope: str) -> None:
    if scope not in Scope.values:
        raise Invalid(f"no scope {scope[:20]!r}", fields={"scope": [f"one of {', '.join(Scope.values)}"]})
    if not actor.can(Permission.SELF) or (actor.user != user and not actor.is_admin):
        audit.refuse(actor, "token.create", "may not make tokens", target=user.username, target_type="user")
        words = "this token may not make tokens" if actor.token else "you may not make tokens for others"
        raise Denied(words, recorded=True, needs="self")
    if actor.token is not None and not SCOPE_PERMISSIONS[scope] <= SCOPE_PERMISSIONS[actor.token.scope]:
        raise Denied("a token cannot make a token with a wider scope", needs=scope)


def _expiry(actor: Actor, wanted: datetime | None) -> datetime | None:
    """Return when a token ends that was wanted until `wanted`: not after the token that it is made with."""
    if wanted is not None and wanted <= timezone.now():
        raise Invalid("the token would have expired already", fields={"expires_at": ["in the past"]})
    if actor.token is None or actor.token.expires_at is None:
        return wanted
    return min(wanted or actor.token.expires_at, actor.token.expires_at)


def _token_entry(actor: Actor, action: str, token: Token, body: dict[str, Any] | None = None) -> None:
    name = f"{token.user.username}: {token}"
    audit.record(actor, action, target_type="token", target_id=str(token.pk), target=name, body=body)


def token_revoke(actor: Actor, token: Token) -> Token:
    """End a token and those made with it; their live connections are closed within seconds."""
    ended = _with_children(token)
    with transaction.atomic():
        Token.objects.filter(pk__in=[item.pk for item in ended], revoked_at=None).update(
            revoked_at=timezone.now()
        )
        _token_entry(actor, "token.revoke", token)
        transaction.on_commit(wake.logins_changed)
    token.refresh_from_db()
    return token


def _with_children(token: Token) -> list[Token]:
    found, waiting = [token], [token]
    while waiting:
        waiting = list(Token.objects.filter(parent__in=waiting).exclude(pk__in=[item.pk for item in found]))
        found += waiting
    return found
