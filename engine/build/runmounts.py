"""`RUN --mount=type=...`: what a step sees beside its file system, and what never becomes part of a layer.

| type | what | default |
|---|---|---|
| bind | a folder or file of the context, a stage or an image | read-only; writes of an `rw` one are thrown away |
| cache | a folder kept between builds, named by `id` | shared between steps |
| tmpfs | memory | |
| secret | a file (or with `env` a variable) that the builder was given | mode 0400 |
| ssh | the socket of an authentication agent | mode 0600 |

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from engine.build.suggest import did_you_mean

Expand = Callable[[str], str]


class MountType(StrEnum):
    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Sharing(StrEnum):
    """How steps that run at once use one cache: together, each its own, or one after the other."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


class MountError(ValueError):
    """A mount option is wrong; `token` is what to point at."""

    def __init__(self, message: str, token: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.token = token
        self.hint = hint


@dataclass
class RunMount:
    """One mount; empty and None mean the default of its type. `env` of a secret: the variable it is given in."""

    type: MountType = MountType.BIND
    origin: str = ""
    source: str = ""
    target: str = ""
    read_only: bool | None = None
    size_bytes: int = 0
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def is_read_only(self) -> bool:
        if self.read_only is None:
            return self.type not in (MountType.CACHE, MountType.TMPFS)
        return self.read_only


def parse_mount(text: str, expand: Expand | None = None) -> RunMount:
    """Read one mount. Without `expand` only its type and origin are read, since the rest may hold variables.

    Raises `MountError`, also for options that do not belong to the type.
    """
    mount = RunMount()
    for item in _fields(text):
        key, separator, value = item.partition("=")
        key = key.lower()
        if not separator:
            if expand is not None or key == "type":
                _set_bare(mount, key, item)
            continue
        if expand is not None:
            _set(mount, key, expand(value), item)
        elif key in ("from", "type"):
            _set_early(mount, key, value, item)
        elif key not in _SETTERS:
            raise _unknown(key, item)
    if expand is not None:
        _check(mount)
    return mount


def _fields(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise MountError(f"failed to parse csv mounts: {error}", text) from error
    return rows[0] if rows else []


def _set_early(mount: RunMount, key: str, value: str, item: str) -> None:
    dollar = value.find("$")
    if key == "from" and dollar >= 0 and dollar != len(value) - 1:
        raise MountError(f"'{key}' doesn't support variable expansion, define alias stage instead", item)
    if dollar < 0:
        _set(mount, key, value, item)


def _set_bare(mount: RunMount, key: str, item: str) -> None:
    if key in ("readonly", "ro"):
        mount.read_only = True
    elif key in ("readwrite", "rw"):
        mount.read_only = False
    elif key == "required":
        _require(mount, key, item, MountType.SECRET, MountType.SSH)
        mount.required = True
    else:
        raise MountError(f"invalid field '{item}' must be a key=value pair", item)


def _set(mount: RunMount, key: str, value: str, item: str) -> None:
    setter = _SETTERS.get(key)
    if setter is None:
        raise _unknown(key, item)
    setter(mount, key, value, item)


def _unknown(key: str, item: str) -> MountError:
    return MountError(f"unexpected key '{key}' in '{item}'", item, did_you_mean(key, _SETTERS))


def _set_type(mount: RunMount, key: str, value: str, item: str) -> None:
    try:
        mount.type = MountType(value.lower())
    except ValueError:
        raise MountError(
            f'unsupported mount type "{value}"', item, did_you_mean(value, list(MountType))
        ) from None


def _set_sharing(mount: RunMount, key: str, value: str, item: str) -> None:
    try:
        mount.sharing = Sharing(value.lower())
    except ValueError:
        raise MountError(
            f'unsupported sharing value "{value}"', item, did_you_mean(value, list(Sharing))
        ) from None


def _set_read_only(mount: RunMount, key: str, value: str, item: str) -> None:
    truth = _truth(key, value, item)
    mount.read_only = truth if key in ("readonly", "ro") else not truth


def _set_required(mount: RunMount, key: str, value: str, item: str) -> None:
    _require(mount, key, item, MountType.SECRET, MountType.SSH)
    mount.required = _truth(key, value, item)


def _set_size(mount: RunMount, key: str, value: str, item: str) -> None:
    _require(mount, key, item, MountType.TMPFS)
    mount.size_bytes = parse_size(key, value, item)


def _text(name: str) -> Callable[[RunMount, str, str, str], None]:
    return lambda mount, key, value, item: setattr(mount, name, value)


def _number(name: str, base: int, digits: str) -> Callable[[RunMount, str, str, str], None]:
    pattern = re.compile(rf"[{digits}]{{1,11}}\Z")

    def setter(mount: RunMount, key: str, value: str, item: str) -> None:
        if not pattern.match(value) or int(value, base) >= 1 << 32:
            raise MountError(f"invalid value {value} for {name}", item)
        setattr(mount, name, int(value, base))

    return setter


_SETTERS: dict[str, Callable[[RunMount, str, str, str], None]] = {
    "type": _set_type,
    "from": _text("origin"),
    "source": _text("source"),
    "src": _text("source"),
    "target": _text("target"),
    "dst": _text("target"),
    "destination": _text("target"),
    "readonly": _set_read_only,
    "ro": _set_read_only,
    "readwrite": _set_read_only,
    "rw": _set_read_only,
    "required": _set_required,
    "size": _set_size,
    "id": _text("id"),
    "sharing": _set_sharing,
    "mode": _number("mode", 8, "0-7"),
    "uid": _number("uid", 10, "0-9"),
    "gid": _number("gid", 10, "0-9"),
    "env": _text("env"),
}


def _require(mount: RunMount, key: str, item: str, *types: MountType) -> None:
    if mount.type not in types:
        raise MountError(f"unexpected key '{key}' for mount type '{mount.type}'", item)


def _truth(key: str, value: str, item: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise MountError(f"invalid value for {key}: {value}", item)


_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)


def parse_size(key: str, value: str, item: str) -> int:
    """Return bytes of `64m`, `1.5GiB`, `4096`: units are powers of 1024."""
    match = _SIZE.match(value)
    if not match:
        raise MountError(f"invalid value for {key}: {value}", item)
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def _check(mount: RunMount) -> None:
    if mount.type in (MountType.BIND, MountType.TMPFS):
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise MountError(f'{name} not allowed for "{mount.type}" type mounts', name)
    if mount.type is MountType.SECRET:
        _check_secret(mount)
    if mount.type is MountType.SSH and mount.source:
        raise MountError("ssh does not support source", "source")
    if mount.sharing is not None and mount.type is not MountType.CACHE:
        raise MountError(f"invalid cache sharing set for {mount.type} mount", "sharing")
    if mount.type in (MountType.BIND, MountType.CACHE, MountType.TMPFS) and not mount.target:
        raise MountError(f"a {mount.type} mount needs a target", "--mount")


def _check_secret(mount: RunMount) -> None:
    if mount.origin:
        raise MountError("secret mount should not have a from", "from")
    if mount.sharing is not None:
        raise MountError("secret mount should not define sharing", "sharing")
    if not mount.source and not mount.target and not mount.id:
        raise MountError("invalid secret mount. one of source, target required", "--mount")
    if mount.source and mount.id:
        raise MountError("both source and id can't be set", "id")
